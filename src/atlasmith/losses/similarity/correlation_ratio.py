"""The correlation ratio, of images and of patches."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from atlasmith.core.choices import Positive
from atlasmith.losses.similarity.base import TINY, Similarity
from atlasmith.losses.similarity.histogram import (
    Counts,
    average_over_patches,
    flatten,
    gaussian_counts,
    rescale,
    sum_over_chunks,
)

ROUNDING_VARIANCE = 1e-8  # of intensities from 0 to 1, by rounding alone


def _explained_variance(x: Tensor, y: Tensor, weight: Tensor, counts: Counts) -> tuple[Tensor, Tensor]:
    """Variance (B,) of `x` explained by `y`, and total variance (B,), under weights of sum 1; each (B, N)."""
    mean = (weight * x).sum(-1, keepdim=True)
    centered = x - mean

    def sums(x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        values = torch.stack([weight, weight * x], dim=-1)
        return counts(y).transpose(-1, -2) @ values

    number, total = sum_over_chunks(sums, centered, y, weight).unbind(-1)
    explained = (total.square() / number.clamp(min=TINY)).sum(-1) / number.sum(-1).clamp(min=TINY)
    return explained, (weight * centered.square()).sum(-1)


def _ratio(a: Tensor, b: Tensor, weight: Tensor, counts: Counts) -> Tensor:
    """Correlation ratio (B,) of images (B, N), the mean of both directions."""
    of_a, variance_a = _explained_variance(a, b, weight, counts)
    of_b, variance_b = _explained_variance(b, a, weight, counts)
    return (of_a / (variance_a + ROUNDING_VARIANCE) + of_b / (variance_b + ROUNDING_VARIANCE)) / 2


@Similarity.declare(
    "1 - correlation ratio, the mean of both directions. For images that are functions of one another."
)
def cr(
    fixed: Tensor,
    moved: Tensor,
    mask: Tensor | None = None,
    bins: int = 32,
    sigma: Positive = 1.0,
    compat: Literal["none", "survey"] = "none",
) -> Tensor:
    """Compute 1 - correlation ratio, the mean of both directions.

    The ratio is Var(E[X | Y]) / Var(X), with Y counted in Gaussian bins (Roche et al. 1998,
    doi:10.1007/BFb0056301): the value is near 0 where each image is a function of the other, and 1 for
    independent or constant images. Intensities are scaled as in `mi`.

    Args:
        bins: Bins of the conditioning image.
        sigma: Standard deviation of the Gaussian kernel, bins.
        compat: "survey" gives the value of its `CorrRatio`: minus a third of the ratio, for intensities from
            0 to 1.
    """
    if compat == "survey":
        return -_survey_ratio(*flatten(fixed, moved, mask), bins, sigma)
    a, b, weight = flatten(rescale(fixed, mask), rescale(moved, mask), mask)
    return 1 - _ratio(a, b, weight, gaussian_counts(bins, sigma))


def _survey_ratio(a: Tensor, b: Tensor, weight: Tensor, bins: int, sigma: float) -> Tensor:
    """A third of the ratio (B,) with bins whose counts aren't normalized, of a width of sigma / sqrt(2), and
    the sample's variance."""

    def counts(x: Tensor) -> Tensor:
        distance = x[..., None] * (bins - 1) - torch.arange(bins, device=x.device, dtype=x.dtype)
        return torch.exp(-distance.square() / sigma**2)

    size = (weight > 0).sum(-1)
    total = torch.zeros_like(weight[:, 0])
    for x, y in ((a, b), (b, a)):
        explained, variance = _explained_variance(x, y, weight, counts)
        total = total + explained / (variance * size / (size - 1) + 1e-5)
    return total / 2 / 3


@Similarity.declare("`cr` in patches. For images that are functions of one another, with bias fields.")
def lcr(
    fixed: Tensor,
    moved: Tensor,
    mask: Tensor | None = None,
    patch: int = 9,
    bins: int = 32,
    sigma: Positive = 1.0,
) -> Tensor:
    """Compute the mean of `cr` over patches inside image and mask.

    The patches stand side by side, and again half a patch later. For contrasts whose relation varies over the
    image.

    Args:
        patch: Voxels of a patch along each axis.
        bins: As in `cr`.
        sigma: As in `cr`.
    """
    counts = gaussian_counts(bins, sigma)

    def value(a: Tensor, b: Tensor) -> Tensor:
        return _ratio(a, b, torch.full_like(a, 1 / a.shape[-1]), counts)

    a, b = rescale(fixed, mask), rescale(moved, mask)
    return 1 - average_over_patches(value, a, b, mask, patch, shift=True)
