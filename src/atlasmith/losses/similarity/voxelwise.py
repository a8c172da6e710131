"""Similarities of the intensities at each voxel, and the global correlation."""

from __future__ import annotations

from torch import Tensor

from atlasmith.losses.similarity.base import Similarity, average, standardize


@Similarity.declare("Mean squared difference. For one contrast on one intensity scale.")
def mse(fixed: Tensor, moved: Tensor, mask: Tensor | None = None) -> Tensor:
    """Compute the mean squared difference: 0 at best.

    It is the log-likelihood of images of one contrast with Gaussian noise, but for constants.
    """
    return average((fixed - moved).square(), mask)


@Similarity.declare("Mean absolute difference. For one contrast on one scale, with outliers such as lesions.")
def mae(fixed: Tensor, moved: Tensor, mask: Tensor | None = None) -> Tensor:
    """Compute the mean absolute difference: 0 at best; an outlier weighs less than under `mse`."""
    return average((fixed - moved).abs(), mask)


@Similarity.declare("1 - Pearson's correlation over the image. For one contrast of any gain and offset.")
def pcc(fixed: Tensor, moved: Tensor, mask: Tensor | None = None) -> Tensor:
    """Compute 1 - Pearson's correlation: 0 at best, 2 for an inverted image, 1 for a constant one."""
    return 1 - average(standardize(fixed, mask) * standardize(moved, mask), mask)
