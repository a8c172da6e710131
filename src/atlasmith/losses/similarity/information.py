"""Mutual information, of images and of patches."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from atlasmith.core.choices import Positive
from atlasmith.losses.similarity.base import TINY, Similarity
from atlasmith.losses.similarity.histogram import (
    Counts,
    Kernel,
    average_over_patches,
    flatten,
    gaussian_counts,
    joint_histogram,
    kernel_counts,
    rescale,
    sum_over_chunks,
)

EPS = 1e-10  # added to a probability, so that the logarithm of an empty bin is finite


def _joint_probabilities(fixed: Tensor, moved: Tensor, mask: Tensor | None, counts: Counts) -> Tensor:
    """Joint probabilities (B, bins, bins) of images (B, C, *shape) with intensities from 0 to 1."""
    return sum_over_chunks(joint_histogram(counts), *flatten(fixed, moved, mask))


def _independent(joint: Tensor) -> Tensor:
    """Product (..., bins, bins) of the marginals of joint probabilities."""
    return joint.sum(-1, keepdim=True) * joint.sum(-2, keepdim=True)


def _information(joint: Tensor) -> Tensor:
    """Mutual information (...), nats, of joint probabilities (..., bins, bins)."""
    return (joint * ((joint + EPS).log() - (_independent(joint) + EPS).log())).sum((-1, -2))


@Similarity.declare("Minus the mutual information, nats. For another modality with one relation everywhere.")
def mi(
    fixed: Tensor,
    moved: Tensor,
    mask: Tensor | None = None,
    bins: int = 32,
    sigma: Positive = 1.0,
    kernel: Kernel = "gaussian",
    compat: Literal["none", "survey", "monai"] = "none",
) -> Tensor:
    """Compute minus the mutual information, nats: 0 for independent or constant images.

    Intensities are scaled from their range in the mask (Wells et al. 1996, doi:10.1016/S1361-8415(01)80004-9;
    with `kernel` "bspline", Mattes et al. 2003, doi:10.1109/TMI.2003.809072).

    Args:
        bins: Bins of either image.
        sigma: Standard deviation of the Gaussian kernel, bins.
        kernel: Parzen window, "gaussian" or "bspline".
        compat: "survey" and "monai" clamp intensities to [0, 1] instead, and give the values of
            `MutualInformation` (32 bins, sigma 1) and `GlobalMutualInformationLoss` (23 bins, sigma 0.5).
    """
    counts = kernel_counts(kernel, bins, sigma)
    if compat == "none":
        return -_information(_joint_probabilities(rescale(fixed, mask), rescale(moved, mask), mask, counts))
    joint = _joint_probabilities(fixed.clamp(0, 1), moved.clamp(0, 1), mask, counts)
    product = _independent(joint)
    if compat == "survey":
        return -(joint * (joint / (product + 1e-6) + 1e-6).log()).sum((-1, -2))
    return -(joint * ((joint + 1e-7) / (product + 1e-7) + 1e-7).log()).sum((-1, -2))


@Similarity.declare("2 - normalized mutual information. For another modality where the overlap varies.")
def nmi(
    fixed: Tensor,
    moved: Tensor,
    mask: Tensor | None = None,
    bins: int = 32,
    sigma: Positive = 1.0,
    kernel: Kernel = "gaussian",
) -> Tensor:
    """Compute 2 - normalized mutual information, 2 - (H(f) + H(m)) / H(f, m).

    0 at best with hard bins, 1 for independent or constant images. It depends less than `mi` on how much of
    the images overlaps (Studholme et al. 1999, doi:10.1016/S0031-3203(98)00091-0).

    Args:
        bins: As in `mi`.
        sigma: As in `mi`.
        kernel: As in `mi`.
    """
    counts = kernel_counts(kernel, bins, sigma)
    joint = _joint_probabilities(rescale(fixed, mask), rescale(moved, mask), mask, counts)
    entropy = -(joint * (joint + EPS).log()).sum((-1, -2))
    return 1 - _information(joint) / entropy.clamp(min=TINY)


@Similarity.declare("Minus the mean mutual information of patches. For another modality with bias fields.")
def lmi(
    fixed: Tensor,
    moved: Tensor,
    mask: Tensor | None = None,
    patch: int = 5,
    bins: int = 32,
    sigma: Positive = 1.0,
) -> Tensor:
    """Compute minus the mean mutual information, nats, of patches side by side inside image and mask.

    For contrasts whose relation varies over the image (Guo 2019, MIT thesis: Multi-modal image registration).
    The estimate from few voxels is biased: at the default settings independent uniform noise has 0.27 nats in
    3-D, with 125 voxels in a patch, and 0.84 nats in 2-D, with 25. So values are comparable only at the same
    settings.

    Args:
        patch: Voxels of a patch along each axis.
        bins: Bins of either image.
        sigma: Standard deviation of the Gaussian kernel, bins.
    """
    counts = joint_histogram(gaussian_counts(bins, sigma))

    def value(a: Tensor, b: Tensor) -> Tensor:
        return _information(counts(a, b, torch.full_like(a, 1 / a.shape[-1])))

    a, b = rescale(fixed, mask), rescale(moved, mask)
    return -average_over_patches(value, a, b, mask, patch, shift=False)
