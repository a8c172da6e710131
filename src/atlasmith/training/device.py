"""Device, precision and seeded random numbers of a computation."""

from __future__ import annotations

import os

import torch

from atlasmith.core.errors import AtlasmithError


def select_device(name: str) -> torch.device:
    """Choose the device to compute on, and make the CPU deterministic.

    On the CPU, equal inputs give equal bytes from then on.

    Args:
        name: `cpu`, `cuda`, or `auto`, which takes CUDA where there is a GPU.

    Returns:
        The device; under torchrun the GPU of this process's local rank.

    Raises:
        AtlasmithError: When `cuda` is asked for and torch finds no GPU.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise AtlasmithError("device: 'cuda' was asked for, and torch sees no GPU. Set `device: cpu`.")
    device = torch.device("cpu")
    if name != "cpu" and torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    # As use_deterministic_algorithms, which imports a compiler for seconds.
    torch.set_deterministic_debug_mode("error" if device.type == "cpu" else "default")
    # Filling all new memory takes a sixth of a training's time, and nothing here reads uninitialized memory.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return device


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Give the context in which networks run.

    Args:
        device: Where they run.
        precision: `float32`, `bfloat16`, or `auto`: bfloat16 on CUDA, float32 on the CPU.
    """
    half = precision == "bfloat16" or (precision == "auto" and device.type == "cuda")
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=half)


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
