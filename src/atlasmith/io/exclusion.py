"""Where other grids show what is excluded of a scan."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from atlasmith.core.grid import Array, Grid, Step
from atlasmith.core.sampling import MASK_THRESHOLD
from atlasmith.core.world import resample
from atlasmith.io.images import read_mask
from atlasmith.io.layout import Layout
from atlasmith.io.tables import Subject


def valid_voxels(layout: Layout, subject: Subject, steps: Sequence[Step], grid: Grid) -> Array:
    """Find the voxels of another grid that don't show what `cohort.exclude` names of a scan.

    Args:
        layout: Names of the run's files.
        subject: The scan.
        steps: The transform from the world of `grid` to the scan's.
        grid: The other grid.

    Returns:
        Boolean (X, Y, Z), true outside the scan's field of view.
    """
    if subject.exclude is None:
        return np.ones(grid.shape, dtype=bool)
    mask = read_mask(layout.valid_mask(subject.id))
    excluded = torch.from_numpy(~mask.grid.squeeze(mask.data))[None, None].float()
    share = resample(excluded, mask.grid, steps, grid)[0, 0].numpy()
    valid: Array = grid.unsqueeze(share) <= 1 - MASK_THRESHOLD
    return valid
