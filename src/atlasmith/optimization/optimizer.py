"""The kind of entry that OPTIMIZERS holds."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from atlasmith.core.choices import Choice


@dataclass(frozen=True)
class Optimizer(Choice[list[Tensor]]):
    """Declare an optimizer: better coefficients for an image or a pair.

    The function takes an `InstanceObjective`, the coefficients (B, channels, *half) to start from, in voxels
    of their own grid, the number of steps, and the initial learning rate in these voxels; then its settings,
    as in `Choice`. It returns candidates (B, channels, *half), the preferred one last: `optimize` chooses for
    each image, so that none ends worse than it started. Images of a batch don't influence each other.
    """
