"""Voxel by voxel, and the global correlation."""

from __future__ import annotations

from torch import Tensor

from atlasmith.losses.similarity.measure import average, measure, standardize


@measure
def mse(fixed: Tensor, moved: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared difference: 0 at best. Its model is one contrast with Gaussian noise."""
    return average((fixed - moved).square(), mask)


@measure
def mae(fixed: Tensor, moved: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean absolute difference: 0 at best; an outlier weighs less than under `mse`."""
    return average((fixed - moved).abs(), mask)


@measure
def pcc(fixed: Tensor, moved: Tensor, mask: Tensor | None = None) -> Tensor:
    """1 - Pearson's correlation: 0 at best, 2 for an inverted image, 1 where an image is constant."""
    return 1 - average(standardize(fixed, mask) * standardize(moved, mask), mask)
