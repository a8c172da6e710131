"""Smooth shapes of which heads and trunks are made.

A shape is its depth (X, Y, Z): about the distance to its surface, mm, positive inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np
from scipy import ndimage

from atlasmith.core.grid import Array, Grid

Coordinates = Sequence[Array]


def grid_between(start: Sequence[int], stop: Sequence[int], step: int) -> Grid:
    """Make the grid from one corner to another, mm, with voxels of `step` mm along the world's axes."""
    x, y, z = ((last - first) // step + 1 for first, last in zip(start, stop, strict=True))
    affine = np.diag([step] * 3 + [1.0])
    affine[:3, 3] = start
    return Grid((x, y, z), affine)


def coordinates(grid: Grid) -> Coordinates:
    """Return x (X, 1, 1), y (1, Y, 1) and z (1, 1, Z), mm, of the voxels of a grid along the world's axes."""
    axes = (np.arange(n) * step for n, step in zip(grid.shape, grid.spacing, strict=True))
    placed = [(axis + start).astype(np.float32) for axis, start in zip(axes, grid.affine[:3, 3], strict=True)]
    return np.meshgrid(*placed, indexing="ij", sparse=True)


def ellipsoid(
    points: Coordinates, center: Sequence[Array | float], radii: Sequence[Array | float], power: float = 2.0
) -> Array:
    """Make a superellipsoid.

    Args:
        points: See `coordinates`; two of them make a tube along the third axis.
        center: Of each coordinate, mm, which may vary along the others.
        radii: Likewise.
        power: 2 for an ellipsoid, more for a box with rounded edges.
    """
    terms = (np.abs((x - c) / r) ** power for x, c, r in zip(points, center, radii, strict=True))
    smallest = min(float(np.min(r)) for r in radii)
    return (1 - sum(terms) ** (1 / power)) * smallest


def union(depths: Sequence[Array], blend: float) -> Array:
    """Unite shapes, with a fillet of about `blend` mm where they meet."""
    return blend * reduce(np.logaddexp, [depth / blend for depth in depths])


def smooth_noise(shape: Sequence[int], sigma: float, seed: int) -> Array:
    """Draw noise (X, Y, Z), smoothed by a Gaussian of `sigma` voxels, of standard deviation 1."""
    noise = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    smooth = ndimage.gaussian_filter(noise, sigma)
    return smooth / smooth.std()


def paint(image: Array, depth: Array, value: Array | float, width: float) -> None:
    """Paint a shape into an image (X, Y, Z), in place, with an edge of `width` mm."""
    image += np.clip(depth / width + 0.5, 0, 1) * (value - image)
