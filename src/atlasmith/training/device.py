"""Where and how training computes: device, precision, seeded random numbers."""

from __future__ import annotations

import os

import torch

from atlasmith.core.errors import AtlasmithError


def select_device(name: str) -> torch.device:
    """`auto` takes CUDA where there is one, each process of torchrun its own GPU; raises `AtlasmithError`
    when CUDA is asked for in vain.

    On the CPU, equal inputs give equal bytes from then on.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise AtlasmithError("device: 'cuda' was asked for, and torch sees no GPU. Set `device: cpu`.")
    device = torch.device("cpu")
    if name != "cpu" and torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    # As use_deterministic_algorithms, which imports a compiler for seconds.
    torch.set_deterministic_debug_mode("error" if device.type == "cpu" else "default")
    # It would also fill all new memory, a sixth of training's time; what we compute reads none unwritten.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return device


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """What networks compute in: `float32`, `bfloat16`, or `auto`, bfloat16 on CUDA alone."""
    half = precision == "bfloat16" or (precision == "auto" and device.type == "cuda")
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=half)


def seeded_generator(seed: int, *where: int) -> torch.Generator:
    """Random numbers that depend on the seed and on where in the work they are drawn, not on history."""
    state = seed % 2**31
    for index in where:
        state = (state * 1_000_003 + index + 1) % (2**63 - 1)
    return torch.Generator().manual_seed(state)
