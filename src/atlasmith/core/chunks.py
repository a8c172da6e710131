"""How much is computed at a time."""

from __future__ import annotations

import torch


def at_once(device: torch.device, cpu: int = 2**22, gpu: int = 2**25) -> int:
    """Choose how much to compute at a time on a device, which bounds memory.

    Args:
        device: The device.
        cpu: How many values, or the like, on a CPU, whose caches should hold them.
        gpu: On a GPU, which would idle between many small steps.

    Example:
        >>> at_once(torch.device("cuda"), cpu=2**16, gpu=2**22) == 2**22
        True
    """
    return cpu if device.type == "cpu" else gpu
