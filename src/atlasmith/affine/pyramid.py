"""The levels of resolution of an affine registration, coarse to fine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from atlasmith.core.grid import Grid

SMOOTHING = (2, 1, 0)  # sigma of the Gaussian at each level, voxels
SAMPLES = 20_000  # voxels of the fixed image at which the finest affine level compares, at most
SMALLEST_AXIS, SMALLEST_LEVEL = 16, 4000  # voxels that a level keeps; fewer can't fill a joint histogram


def pyramid(grid: Grid, kind: str) -> list[tuple[float, int, int]]:
    """Return the levels at which a transform is optimized.

    Args:
        grid: The fixed image's grid.
        kind: `rigid` or `affine`. A rigid transform and the smoothed levels only start what follows: a
            quarter of the samples is enough.

    Returns:
        For each level, the sigma of the Gaussian that smooths both images, mm; the factor by which each axis
        of the fixed image is subsampled; and the largest number of voxels at which the images are compared.
    """
    spacing, levels = min(grid.tensor_spacing), []
    for smoothing in SMOOTHING:
        samples = SAMPLES if kind == "affine" and smoothing == 0 else SAMPLES // 4
        levels.append((smoothing * spacing, _shrink_factor(grid.tensor_shape, smoothing), samples))
    return levels


def _shrink_factor(shape: Sequence[int], smoothing: int) -> int:
    """Return the factor by which a level smoothed with a sigma of so many voxels may be subsampled."""
    factor = max(1, 2 * smoothing)
    while factor > 1 and (
        min(shape) // factor < SMALLEST_AXIS or np.prod(shape) / factor ** len(shape) < SMALLEST_LEVEL
    ):
        factor //= 2
    return factor
