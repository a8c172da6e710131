"""Tensors of the pretended GPU of `second_device.py`, and what happens to them in C++'s operators.

To C++ they lie on `meta`, the one device beside the CPU that every build of torch can differentiate on.
"""

from __future__ import annotations

import functools
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from traffic import moved_bytes

DEVICE = torch.device("cuda", 0)
META = torch.device("meta")
# Where the line that waits isn't looked for: in torch, and in the pretended GPU.
OUTSIDE = str(Path(torch.__file__).parent), __file__, str(Path(__file__).with_name("second_device.py"))

aten = torch.ops.aten
COPIES = {aten.copy_.default, aten._to_copy.default}
INDEXING = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default}
# Operators whose value, or the shape of whose result, the host waits for.
ANSWERS = {
    aten._local_scalar_dense.default: "item",
    aten.nonzero.default: "nonzero",
    aten.masked_select.default: "masked_select",
    aten._unique2.default: "unique",
    aten.unique_dim.default: "unique",
    aten.unique_consecutive.default: "unique",
    aten.repeat_interleave.Tensor: "repeat_interleave",
    aten.bincount.default: "bincount",
    aten.equal.default: "equal",
    aten._linalg_check_errors.default: "check of a decomposition",
}
# Those that CPUs have for integers, and CUDA hasn't.
FLOATING = (
    *("mm", "bmm", "addmm", "baddbmm", "mv", "addmv", "dot", "convolution", "avg_pool2d", "avg_pool3d"),
    *("max_pool2d_with_indices", "max_pool3d_with_indices", "upsample_bilinear2d", "upsample_trilinear3d"),
)


class Refused(RuntimeError):
    """What CUDA would have refused, or have done wrongly."""


class Counts:
    """What the device was asked to do while it was active.

    Attributes:
        waits: Number of waits by kind and by line, such as `("item", "training/loop.py:132")`.
        kernels: Number of launches by operator.
        moved: Bytes that kernels read and write, by operator, where asked for.

    Args:
        count_bytes: Whether to count bytes, which takes time.
    """

    active: Counts | None = None

    def __init__(self, count_bytes: bool = False) -> None:
        self.count_bytes = count_bytes
        self.pinned: dict[int, Tensor] = {}  # by the address of their memory, which stays taken
        self.unfilled: set[int] = set()  # addresses of host memory that asynchronous copies fill
        self.half: torch.dtype | None = None  # of autocast
        self.operators = Operators()
        self.clear()

    def clear(self) -> None:
        """Count from zero on."""
        self.waits: Counter[tuple[str, str]] = Counter()
        self.kernels: Counter[str] = Counter()
        self.moved: Counter[str] = Counter()

    def wait(self, kind: str) -> None:
        """Count a wait, and the innermost line outside of torch that causes it."""
        frame: Any = sys._getframe(1)
        while frame.f_code.co_filename.startswith(OUTSIDE):
            frame = frame.f_back
        path = frame.f_code.co_filename.split("/atlasmith/")[-1]
        self.waits[kind, f"{path}:{frame.f_lineno}"] += 1


def counts() -> Counts:
    """Return those of the active device."""
    assert Counts.active is not None
    return Counts.active


class DeviceTensor(Tensor):
    """A tensor whose values are `held` on the CPU, and which says that it lies on the second device."""

    held: Tensor
    device = property(lambda self: DEVICE)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    is_cpu = is_meta = property(lambda self: False)  # type: ignore[assignment]
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor) -> DeviceTensor:
        layout = {"strides": held.stride(), "storage_offset": held.storage_offset()}
        made: DeviceTensor = Tensor._make_wrapper_subclass(
            cls, held.size(), dtype=held.dtype, device=META, **layout
        )
        return made

    def __init__(self, held: Tensor) -> None:
        self.held = held

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"DeviceTensor({self.held})"

    def __format__(self, spec: str) -> str:
        return format(self.item() if self.ndim == 0 else repr(self), spec)

    def tolist(self) -> Any:
        """Wait once, whatever the size."""
        counts().wait("tolist")
        return self.held.detach().tolist()

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse: NumPy can't read the device's memory."""
        raise Refused("NumPy on the device's memory: Tensor.cpu() comes first")

    __array__ = numpy

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _run(func, args, kwargs or {})


class Operators(TorchDispatchMode):
    """Run operators that have no tensor of the device among their arguments, such as those that make one."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # skipping imports a compiler for seconds


def is_second(device: Any) -> bool:
    """Tell the second device by either name."""
    name = device.type if isinstance(device, torch.device) else str(device).split(":")[0]
    return name in (META.type, DEVICE.type)


def map_tensors(function: Callable[[Tensor], Any], values: Any) -> Any:
    """Apply a function to all tensors in nested lists, tuples and dictionaries."""
    if isinstance(values, Tensor):
        return function(values)
    if isinstance(values, list | tuple):
        return type(values)([map_tensors(function, value) for value in values])
    if isinstance(values, dict):
        return {key: map_tensors(function, value) for key, value in values.items()}
    return values


def address(tensor: Tensor) -> int:
    """Return where the memory of a CPU tensor begins."""
    return tensor.untyped_storage().data_ptr()


def check_filled(tensor: Tensor) -> None:
    """Refuse to read host memory before the host has waited for the copy that fills it."""
    if counts().unfilled and not isinstance(tensor, DeviceTensor) and address(tensor) in counts().unfilled:
        raise Refused("host memory that an asynchronous copy may not have filled yet")


@dataclass(frozen=True)
class _Kind:
    """What matters of an operator here."""

    composite: bool  # made of others
    kernel: bool  # computes anything: isn't a view, or memory without values
    copies: bool
    indexes: bool
    pointwise: bool
    mutates: bool
    floating: bool  # of CUDA, takes no integers
    answer: str  # how it makes the host wait

    @staticmethod
    @functools.cache
    def of(func: Any) -> _Kind:
        """Find it out, once for each operator."""
        aliases = [a.alias_info for a in func._schema.arguments if a.alias_info is not None]
        return _Kind(
            torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"),
            all(alias.is_write for alias in aliases) and "empty" not in func.name(),
            func in COPIES,
            func in INDEXING,
            torch.Tag.pointwise in func.tags,
            func._schema.is_mutable,
            func.overloadpacket.__name__ in FLOATING,
            ANSWERS.get(func, ""),
        )


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    """Run an operator on what its tensors hold, if CUDA would run it."""
    kind, state = _Kind.of(func), counts()
    if kind.composite:
        # In inference mode it comes whole; autograd would have split it.
        with state.operators, torch._C.DisableTorchFunction():
            return func._op_dk(torch._C.DispatchKey.CompositeImplicitAutograd, *args, **kwargs)
    tensors: list[Tensor] = []

    def held(tensor: Tensor) -> Tensor:
        tensors.append(tensor)
        return tensor.held if isinstance(tensor, DeviceTensor) else tensor

    plain, named = map_tensors(held, args), map_tensors(held, kwargs)
    from_device = _check_devices(func, kind, args, tensors)
    place = kwargs.get("device")
    to_device = from_device if place is None else is_second(place)
    if place is not None:
        named["device"] = torch.device("cpu")
    result = func(*plain, **named)
    if from_device or to_device:
        _count_waits(func, kind, args, kwargs, result)
        if kind.kernel:
            state.kernels[func.name()] += 1
            if state.count_bytes:
                state.moved[func.name()] += moved_bytes(func, plain, named, result)
    if not to_device:
        return result
    with torch.inference_mode(False) if torch.is_inference_mode_enabled() else nullcontext():
        result = map_tensors(DeviceTensor, result)
        return return_and_correct_aliasing(func, args, kwargs, result) if from_device else result


def _check_devices(func: Any, kind: _Kind, args: Any, tensors: list[Tensor]) -> bool:
    """Tell whether a tensor lies on the device; raise `Refused` where CUDA wouldn't compute."""
    host = [tensor for tensor in tensors if not isinstance(tensor, DeviceTensor)]
    for tensor in host:
        check_filled(tensor)
    if len(host) == len(tensors):
        return False
    if kind.floating and not tensors[0].is_floating_point():
        raise Refused(f"{func}: CUDA has no kernel for {tensors[0].dtype}")
    if host and not kind.copies and not _may_mix(kind, args, host):
        names = {True: "device", False: "CPU"}
        places = [f"{names[isinstance(tensor, DeviceTensor)]} {(*tensor.shape,)}" for tensor in tensors]
        raise Refused(f"{func}: tensors on two devices: {', '.join(places)}")
    return True


def _may_mix(kind: _Kind, args: Any, host: list[Tensor]) -> bool:
    """Tell whether an operator of CUDA takes these tensors from the CPU: scalars, and indices."""
    of_device = isinstance(args[0], DeviceTensor)
    if kind.indexes and of_device:
        value = args[2] if len(args) > 2 else args[0]
        return isinstance(value, DeviceTensor) or value.ndim == 0
    scalars = all(tensor.ndim == 0 for tensor in host)
    return kind.pointwise and scalars and (of_device or not kind.mutates)


def _count_waits(func: Any, kind: _Kind, args: Any, kwargs: Any, result: Any) -> None:
    """Count the waits of an operator in which the device takes part."""
    if kind.copies:
        _count_copy(func, args, kwargs, result)
    elif kind.answer:
        counts().wait(kind.answer)
    elif kind.indexes and isinstance(args[0], DeviceTensor):
        indices = [index for index in args[1] if index is not None]
        if any(index.dtype == torch.bool for index in indices):
            counts().wait("boolean index")
        elif not all(isinstance(index, DeviceTensor) for index in indices):
            counts().wait("copy of indices")


def _count_copy(func: Any, args: Any, kwargs: Any, result: Any) -> None:
    """Count a copy between the devices, unless it is asynchronous; note which host memory that one fills."""
    made = func is aten._to_copy.default
    target, source = (result, args[0]) if made else args[:2]
    to_host = isinstance(source, DeviceTensor)
    place = kwargs.get("device")
    to_device = (
        isinstance(target, DeviceTensor) if not made else to_host if place is None else is_second(place)
    )
    if to_host == to_device:
        return
    host = target if to_host else source
    # `to("cpu", non_blocking=True)` makes its own pinned memory.
    pinned = address(host) in counts().pinned or (made and to_host)
    if not (pinned and (kwargs.get("non_blocking") or True in args[2:])):
        counts().wait("copy to the host" if to_host else "copy to the device")
    elif to_host:
        counts().unfilled.add(address(host))
