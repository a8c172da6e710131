"""Device, precision and seeded random numbers of a computation."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from functools import cache, wraps
from typing import Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor

from atlasmith.config import Config
from atlasmith.core.errors import AtlasmithError, first_line
from atlasmith.core.progress import write_line
from atlasmith.training.sharing import claim_gpu

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def select_device(name: str) -> torch.device:
    """Choose the device to compute on, make the CPU deterministic, and name the device in the log.

    On the CPU, equal inputs give equal bytes from then on.

    Args:
        name: `cpu`, `cuda`, or `auto`, which takes CUDA where there is a GPU.

    Returns:
        The device; of several GPUs see `claim_gpu`.

    Raises:
        AtlasmithError: When `cuda` is asked for and torch finds no GPU, or torchrun has started more
            processes on this machine than it has GPUs.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise AtlasmithError("device: 'cuda' was asked for, and torch sees no GPU. Set `device: cpu`.")
    device = torch.device("cpu")
    if name != "cpu" and torch.cuda.is_available():
        processes, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", 1)), torch.cuda.device_count()
        if processes > gpus:
            raise AtlasmithError(
                f"processes: {processes} on this machine, where torch sees {gpus} GPU{'s' * (gpus > 1)}, and "
                f"each process needs its own. Set `processes: {gpus}` or less, or `device: cpu`."
            )
        device = torch.device("cuda", claim_gpu(gpus))
        torch.cuda.set_device(device)  # on which collective operations and pinned memory rely
    # As use_deterministic_algorithms, which imports a compiler for seconds.
    torch.set_deterministic_debug_mode("error" if device.type == "cpu" else "default")
    # Filling all new memory takes a sixth of a training's time, and nothing here reads uninitialized memory.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    _log(device)
    return device


@cache
def _log(device: torch.device) -> None:
    """Name a device in the log, once in a process."""
    threads = torch.get_num_threads()
    text = f"{threads} thread{'s' * (threads > 1)}"
    if device.type == "cuda":
        gib = torch.cuda.mem_get_info(device)[1] / 2**30
        text = f"{torch.cuda.get_device_name(device)}, {gib:.1f} GiB"
    write_line(f"device: {device}, {text}", sys.stderr)


def cpu_if_memory_is_short(
    compute: Callable[Concatenate[Config, Parameters], Result],
) -> Callable[Concatenate[Config, Parameters], Result]:
    """Decorate what computes one result: with `device: auto`, the CPU repeats what a GPU's memory is too
    small for, and a line in the log says so.

    Args:
        compute: Takes the config first, chooses the device by it, and moves there what else it takes.

    Returns:
        The same function; with `device: cuda` it raises torch's error.
    """

    @wraps(compute)
    def repeated(config: Config, *args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        try:
            return compute(config, *args, **kwargs)
        except torch.OutOfMemoryError as error:
            if config.device != "auto":
                raise
            found = first_line(error)
        torch.cuda.empty_cache()  # here, where the error no longer holds tensors
        write_line(f"{found}. With `device: auto`, the CPU computes this again.", sys.stderr)
        try:
            return compute(config.model_copy(update={"device": "cpu"}), *args, **kwargs)
        finally:
            select_device(config.device)  # for what follows on the GPU

    return repeated


def autocast(device: torch.device, precision: str, segments: bool = False) -> torch.autocast:
    """Give the context in which networks run.

    Args:
        device: Where they run.
        precision: `float32`, `bfloat16`, or `auto`: bfloat16 on CUDA, float32 on the CPU.
        segments: Whether the network segments, for which `auto` is bfloat16 on a CPU that has it, too.
    """
    native = device.type == "cuda" or (segments and device.type == "cpu" and _cpu_has_bfloat16())
    half = precision == "bfloat16" or (precision == "auto" and native)
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=half)


@cache
def _cpu_has_bfloat16() -> bool:
    """Whether this CPU multiplies in bfloat16; unknown, and so no, before PyTorch 2.13."""
    found = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(found.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


def seeded_generator(seed: int, *stream: int) -> torch.Generator:
    """Make a generator that depends on the seed and on a stream's numbers alone.

    Args:
        seed: The config's seed.
        *stream: What the numbers are for: a constant of the caller, then perhaps a step or a subject.

    Returns:
        A CPU generator: a resumed training draws the same numbers as an uninterrupted one.
    """
    state = seed % 2**31
    for index in stream:
        state = (state * 1_000_003 + index + 1) % (2**63 - 1)
    return torch.Generator().manual_seed(state)


def draw_normal(shape: Sequence[int], random: torch.Generator, device: torch.device) -> Tensor:
    """Draw standard normal numbers for every voxel of an image, where they are needed.

    On a GPU its own generator draws them, from a seed that `random` gives: the numbers differ from those of
    the CPU, and are the same in each run.

    Args:
        shape: Of the result.
        random: Seeded generator on the CPU.
        device: Where to draw.

    Returns:
        The numbers (*shape), on `device`.
    """
    if device != random.device:
        seed = int(torch.randint(2**63 - 1, (), generator=random))
        random = torch.Generator(device).manual_seed(seed)
    return torch.randn(shape, generator=random, device=device)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor from the host to a device, without waiting for what the device computes.

    Args:
        tensor: On the CPU. It must not be changed afterwards: the copy may still be reading it.
        device: Where to.

    Returns:
        The tensor on `device`; on the CPU, `tensor` itself.
    """
    return pinned_for(tensor, device).to(device, non_blocking=True)


def pinned_for(tensor: Tensor, device: torch.device) -> Tensor:
    """Move a CPU tensor to page-locked memory, from which a GPU copies by itself; for a CPU, do nothing."""
    return tensor.pin_memory() if device.type == "cuda" else tensor
