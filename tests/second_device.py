"""A pretended GPU: what CUDA refuses is refused, and what makes it wait is counted, on a machine without one.

While `SecondDevice` is active there is a device `cuda:0`. Its tensors hold their values on the CPU, so that
results can be compared with the CPU's, and say that they lie elsewhere.

Refused are operations on tensors of two devices (but for scalars, and indices on the CPU), NumPy on the
device's memory, CPU generators for the device's random numbers, kernels that CUDA lacks for integers, and
host memory that an asynchronous copy may not have filled yet.

Counted are kernel launches, the bytes that they read and write, and waits: what makes the host wait for the
device, by kind and by line of source. An asynchronous copy from or to pinned memory is none.

Not pretended are half precision in other operations than products, and what depends on the hardware: its
kernels' rounding, its memory, and its speed.
"""

from __future__ import annotations

import functools
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from typing import Any

import pytest
import torch
from device_tensor import (
    DEVICE,
    META,
    Counts,
    DeviceTensor,
    Refused,
    address,
    check_filled,
    counts,
    is_second,
    map_tensors,
)
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["DEVICE", "DeviceTensor", "Refused", "SecondDevice", "to_device", "to_host", "waits_per_step"]

MEMORY = 80 * 2**30  # bytes
MADE_FROM_DATA = (torch.tensor, torch.as_tensor, torch.asarray)
# What autocast computes in half precision.
PRODUCTS = {
    *(torch.conv2d, torch.conv3d, torch.conv_transpose2d, torch.conv_transpose3d),
    *(torch.nn.functional.linear, torch.matmul, torch.mm, torch.bmm, torch.addmm, torch.einsum),
    *(Tensor.matmul, Tensor.__matmul__, Tensor.mm, Tensor.bmm),
}


class SecondDevice(Counts):
    """Pretend the device while active, and count what it is asked to do.

    Example:
        with SecondDevice() as device:
            value = similarity(fixed.cuda(), moved.cuda())
        assert not device.waits
    """

    def __enter__(self) -> SecondDevice:
        Counts.active = self
        self.functions = _Functions()
        self._patch = pytest.MonkeyPatch()
        for function in MADE_FROM_DATA:
            self._patch.setattr(torch, function.__name__, functools.partial(_made_from_data, function))
        self._patch.setattr(torch, "autocast", functools.partial(_Autocast, torch.autocast))
        self._patch.setattr(torch, "Generator", _Generator)
        self._patch.setattr(Tensor, "pin_memory", _pin)
        self._patch.setattr(Tensor, "is_pinned", lambda tensor: address(tensor) in self.pinned)
        # A mode is inactive while it handles a call, such as that of a backward pass, and in other threads.
        backward, thread = torch.autograd._engine_run_backward, threading.Thread.run
        self._patch.setattr(torch.autograd, "_engine_run_backward", _within(backward, self.functions))
        self._patch.setattr(threading.Thread, "run", _within(thread, self.functions, self.operators))
        for name, value in self._cuda().items():
            self._patch.setattr(torch.cuda, name, value)
        # A parameter can't become a DeviceTensor in place.
        self._overwritten = torch.__future__.get_overwrite_module_params_on_conversion()
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        self._deterministic = torch.get_deterministic_debug_mode()
        torch.set_deterministic_debug_mode("default")  # as `select_device` does for a GPU
        self.functions.__enter__()
        self.operators.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.operators.__exit__(*error)
        self.functions.__exit__(*error)
        torch.set_deterministic_debug_mode(self._deterministic)
        torch.__future__.set_overwrite_module_params_on_conversion(self._overwritten)
        self._patch.undo()
        Counts.active = None

    def _synchronize(self, device: Any = None) -> None:
        self.wait("synchronize")
        self.unfilled.clear()

    def _cuda(self) -> dict[str, Any]:
        """Stand-ins for functions of torch.cuda."""
        return {
            "is_available": lambda: True,
            "device_count": lambda: 1,
            "current_device": lambda: 0,
            "set_device": lambda device: None,
            "get_device_name": lambda device=None: "pretended",
            "mem_get_info": lambda device=None: (MEMORY, MEMORY),
            "memory_allocated": lambda device=None: 0,
            "memory_reserved": lambda device=None: 0,
            "max_memory_allocated": lambda device=None: 0,
            "empty_cache": lambda: None,
            "synchronize": self._synchronize,
            "_lazy_init": lambda: None,
        }


class _Functions(TorchFunctionMode):
    """Translate what Python code says of the second device before C++ reads it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.device:
            return func(*args, **kwargs)
        if func in (Tensor.numpy, Tensor.tolist, Tensor.__array__):
            check_filled(args[0])
        if func is Tensor.cuda:
            return args[0].to(META, *args[1:], **kwargs)
        if func is Tensor.new_tensor and isinstance(args[0], DeviceTensor):
            return torch.tensor(*args[1:], **{"dtype": args[0].dtype, "device": DEVICE} | kwargs)
        if func in (Tensor.__getitem__, Tensor.__setitem__):
            args = args[0], _with_tensors(args[1]), *args[2:]
        args, kwargs = tuple(map(_translated, args)), {k: _translated(v) for k, v in kwargs.items()}
        if kwargs.get("generator") is not None:
            _check_generator(func, args, kwargs)
        if kwargs.pop("pin_memory", False):
            return _pin(func(*args, **kwargs))
        if counts().half is not None and func in PRODUCTS:
            args, kwargs = map_tensors(_halved, args), map_tensors(_halved, kwargs)
        return func(*args, **kwargs)


def _within(function: Callable[..., Any], *modes: Any) -> Callable[..., Any]:
    """Let a function run with modes active."""

    def call(*args: Any, **kwargs: Any) -> Any:
        with ExitStack() as stack:
            for mode in modes:
                stack.enter_context(mode)
            return function(*args, **kwargs)

    return call


def _translated(value: Any) -> Any:
    """Replace the second device by the one that C++ knows."""
    return META if isinstance(value, torch.device | str) and is_second(value) else value


def _halved(tensor: Tensor) -> Tensor:
    half = isinstance(tensor, DeviceTensor) and tensor.dtype == torch.float32
    return tensor.to(counts().half) if half else tensor


def _with_tensors(index: Any) -> Any:
    """Replace lists among the indices by tensors, which torch would make without values for `meta`."""
    if isinstance(index, list):
        return torch.tensor(index)
    return tuple(map(_with_tensors, index)) if isinstance(index, tuple) else index


def _check_generator(func: Any, args: Any, kwargs: Any) -> None:
    to_device = is_second(kwargs.get("device")) or any(isinstance(x, DeviceTensor) for x in args)
    if getattr(kwargs["generator"], "on_device", False) != to_device:
        raise Refused(f"{func}: the generator of one device, and random numbers for the other")


def _pin(tensor: Tensor) -> Tensor:
    if isinstance(tensor, DeviceTensor):
        raise Refused("only the host's memory is pinned")
    pinned = tensor.clone()
    counts().pinned[address(pinned)] = pinned
    return pinned


def _made_from_data(
    function: Callable[..., Tensor], data: Any, *args: Any, device: Any = None, **kwargs: Any
) -> Tensor:
    """Make a tensor of data: on `meta`, C++ would make one without values."""
    if not is_second(device):
        return function(data, *args, device=device, **kwargs)
    return function(data, *args, **kwargs).to(META)


class _Generator(torch.Generator):
    """A generator that knows its device."""

    on_device: bool

    def __new__(cls, device: Any = "cpu") -> _Generator:
        made: _Generator = super().__new__(cls)
        made.on_device = is_second(device)
        return made


class _Autocast:
    """Autocast for the second device, of which torch's own knows nothing."""

    def __init__(
        self, of_torch: Any, device_type: str, dtype: torch.dtype | None = None, enabled: bool = True
    ) -> None:
        self.on_device, self.half = is_second(device_type), dtype if enabled else None
        self.other = nullcontext() if self.on_device else of_torch(device_type, dtype, enabled)

    def __enter__(self) -> None:
        if self.on_device:
            self.before, counts().half = counts().half, self.half
        self.other.__enter__()

    def __exit__(self, *error: Any) -> None:
        if self.on_device:
            counts().half = self.before
        self.other.__exit__(*error)


def to_device(values: Any) -> Any:
    """Move all tensors in nested lists, tuples and dictionaries to the second device."""
    return map_tensors(lambda tensor: tensor.to(DEVICE), values)


def to_host(values: Any) -> Any:
    """Move all tensors in nested lists, tuples and dictionaries to the CPU."""
    return map_tensors(lambda tensor: tensor.cpu(), values)


def waits_per_step(
    device: SecondDevice, run: Callable[[int], object], steps: int = 2
) -> Counter[tuple[str, str]]:
    """Count by kind and line what one further step waits: twice the steps, less the steps."""
    found = []
    for count in (steps, 2 * steps):
        device.clear()
        run(count)
        found.append(Counter(device.waits))
    found[1].subtract(found[0])
    return Counter({where: count / steps for where, count in found[1].items() if count})
