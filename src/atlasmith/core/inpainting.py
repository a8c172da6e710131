"""Fill regions of an image from their surroundings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from atlasmith.core.grid import Array

TOLERANCE = 1e-4  # of the range of the surroundings; sweeps end where none changes a voxel by more
SWEEPS = 10  # at most, for each voxel of the region's largest extent


def fill(
    data: Array, region: Array, known: Array | None = None, spacing: Sequence[float] = (1.0, 1.0, 1.0)
) -> Array:
    """Replace the voxels of a region by the smoothest continuation of the voxels around it.

    This is the solution of Laplace's equation with the known voxels as boundary values, found by successive
    over-relaxation in a fixed order. What the region held has no influence.

    Args:
        data: Intensities (X, Y, Z).
        region: Boolean (X, Y, Z), the voxels to replace.
        known: Boolean (X, Y, Z), the voxels to continue; None: all others. Beyond other voxels nothing is
            continued.
        spacing: Voxel size (3,), mm.

    Returns:
        float32 intensities (X, Y, Z); as they were where no voxel is known.

    Example:
        >>> ramp = np.arange(12.0).reshape(3, 4, 1)
        >>> hole = np.zeros((3, 4, 1), dtype=bool)
        >>> hole[1, 1:3] = True
        >>> fill(np.where(hole, 99, ramp), hole)[1, 1:3, 0].round(2)
        array([5., 6.], dtype=float32)
    """
    known = ~region if known is None else known & ~region
    if not region.any() or not known.any():
        return data.astype(np.float32)
    box = ndimage.find_objects(region.astype(np.uint8))[0]
    box = tuple(slice(max(s.start - 1, 0), s.stop + 1) for s in box)
    if not known[box].any():
        box = tuple(slice(None) for _ in box)
    inner, boundary = region[box], known[box]
    nearest = ndimage.distance_transform_edt(
        ~boundary, sampling=spacing, return_distances=False, return_indices=True
    )
    values = data[box].astype(np.float64)
    values = np.where(inner, values[tuple(nearest)], values)
    filled: Array = data.astype(np.float32)
    filled[box] = np.where(inner, _relax(values, inner, boundary, spacing), filled[box])
    return filled


def _relax(values: Array, region: Array, known: Array, spacing: Sequence[float]) -> Array:
    """Solve Laplace's equation in `region` from a first guess, with no flow to unknown voxels."""
    padded = np.pad(values, 1)
    domain, inner = np.pad(region | known, 1), np.pad(region, 1)
    strides = [int(np.prod(padded.shape[axis + 1 :])) for axis in range(padded.ndim)]
    steps = [sign * stride for stride in strides for sign in (-1, 1)]
    rates = np.repeat(1 / np.square(spacing), 2)
    flat, inside = padded.reshape(-1), domain.reshape(-1)
    parity = np.indices(padded.shape).sum(axis=0).reshape(-1) % 2
    halves = []
    for color in (0, 1):  # the neighbors of a voxel are of the other color
        voxels = np.flatnonzero(inner.reshape(-1) & (parity == color))
        neighbors = voxels[:, None] + np.array(steps)
        weights = inside[neighbors] * rates
        total = weights.sum(axis=1, keepdims=True)
        kept = total[:, 0] > 0
        halves.append((voxels[kept], neighbors[kept], weights[kept] / total[kept]))
    low, high = values[known].min(), values[known].max()
    extent = max(region.shape)
    relaxation = 2 / (1 + np.sin(np.pi / (extent + 1)))
    for _ in range(SWEEPS * extent):
        change = 0.0
        for voxels, neighbors, weights in halves:
            step = (flat[neighbors] * weights).sum(axis=1) - flat[voxels]
            flat[voxels] += relaxation * step
            change = max(change, float(np.abs(step).max(initial=0)))
        if change <= TOLERANCE * (high - low):
            break
    return np.clip(padded[1:-1, 1:-1, 1:-1], low, high)
