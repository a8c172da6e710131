"""Affine maps, displacements and velocities of the demo's truth, in world coordinates.

They use SciPy alone and nothing of `core`, so that the truth is independent of what is graded against it.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from atlasmith.core.grid import Array, Grid

INTEGRATION_STEPS = 6


def world_positions(grid: Grid) -> Array:
    """Compute the world positions (N, 3), RAS mm, of a grid's voxels."""
    index = np.indices(grid.shape).reshape(3, -1).T
    return index @ grid.affine[:3, :3].T + grid.affine[:3, 3]


def apply_affine(matrix: Array, points: Array) -> Array:
    """Apply a matrix (4, 4) to points (N, 3)."""
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def sample_linear(data: Array, grid: Grid, points: Array, mode: str = "constant") -> Array:
    """Interpolate `data` (X, Y, Z) on `grid` at world points (N, 3), linearly.

    Outside the grid it is zero, or with the mode `nearest` what it is at the border.
    """
    index = apply_affine(np.linalg.inv(grid.affine), points).T
    return ndimage.map_coordinates(data, index, output=np.float32, order=1, mode=mode)


def displace(points: Array, vectors: Array, grid: Grid) -> Array:
    """Move points (N, 3) by the displacement `vectors` (X, Y, Z, 3), mm, on `grid`."""
    return points + np.stack([sample_linear(vectors[..., axis], grid, points) for axis in range(3)], axis=1)


def compose(first: Array, second: Array, grid: Grid) -> Array:
    """Compose two displacements (X, Y, Z, 3), mm, on `grid`: the first, then the second."""
    points = world_positions(grid)
    return (displace(points + first.reshape(-1, 3), second, grid) - points).reshape(*grid.shape, 3)


def exponentiate(velocity: Array, grid: Grid) -> Array:
    """Integrate a stationary velocity (X, Y, Z, 3) to a displacement, both in mm, by scaling and squaring."""
    displacement = velocity / 2**INTEGRATION_STEPS
    for _ in range(INTEGRATION_STEPS):
        displacement = compose(displacement, displacement, grid)
    return displacement
