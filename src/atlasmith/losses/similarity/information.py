"""Measures of statistical dependence: mutual information and the correlation ratio, global and by patches.

Intensities are counted softly, each voxel in a few bins (a Parzen window). The counts (voxels x bins) of a
whole image are never held: chunks of voxels are counted one after another, and counted again for the
gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from atlasmith.core.checkpointing import checkpoint
from atlasmith.losses.similarity.measure import TINY, measure

CHUNK = 2**13  # voxels whose counts are held at once; they stay in the cache
EPS = 1e-10  # of a probability, so that the logarithm of an empty bin is finite
NOISE = 1e-8  # variance, of intensities from 0 to 1, of rounding alone

Kernel = Literal["gaussian", "bspline"]
Counts = Callable[[Tensor], Tensor]


def _gaussian(bins: int, sigma: float) -> Counts:
    """Gaussian shares (..., bins), of sum 1, of values from 0 to 1; `sigma` in bins."""

    def counts(x: Tensor) -> Tensor:
        # Of -(x - bin)^2, the softmax leaves out x^2: what is left is linear in x, so one pass each way.
        center = torch.arange(bins, device=x.device, dtype=x.dtype) - (bins - 1) / 2
        value = (x[..., None] - 0.5) * (bins - 1)
        exponent = torch.addcmul(-center.square() / (2 * sigma**2), value, center / sigma**2)
        return torch.softmax(exponent, dim=-1)

    return counts


def _bspline(bins: int) -> Counts:
    """Cubic B-spline shares (..., bins) of values from 0 to 1. Two bins at each end are left for the spline's
    reach, so the shares have sum 1 and the value as their mean."""

    def counts(x: Tensor) -> Tensor:
        distance = x[..., None] * (bins - 5) + 2 - torch.arange(bins, device=x.device, dtype=x.dtype)
        t = distance.abs()
        near, far = 2 / 3 - t.square() + t**3 / 2, (2 - t).clamp(min=0) ** 3 / 6
        return torch.where(t < 1, near, far)

    return counts


def _counts(kernel: Kernel, bins: int, sigma: float) -> Counts:
    kernels = {"gaussian": lambda: _gaussian(bins, sigma), "bspline": lambda: _bspline(bins)}
    if kernel not in kernels:
        raise ValueError(f"kernel: {' or '.join(kernels)}, not {kernel!r}")
    return kernels[kernel]()


def _unit(x: Tensor, mask: Tensor | None) -> Tensor:
    """`x` (B, C, *shape) from its least value in the mask, 0, to its greatest, 1; clamped outside."""
    low, high = (
        (x if mask is None else torch.where(mask > 0, x, outside)).flatten(1)
        for outside in (torch.inf, -torch.inf)
    )
    least, greatest = low.amin(1), high.amax(1)
    known = (greatest > least).view(-1, *[1] * (x.ndim - 1))  # false for a constant image, or an empty mask
    least, greatest = (v.view(-1, *[1] * (x.ndim - 1)) for v in (least, greatest))
    safe_least = torch.where(known, least, 0)
    return ((x - safe_least) / torch.where(known, greatest - safe_least, 1)).clamp(0, 1)


def _flat(fixed: Tensor, moved: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Images and weights of sum 1 (0 for an empty mask), each (B, N), channels and voxels together."""
    weight = torch.ones_like(fixed[:, :1]) if mask is None else mask
    weight = weight.expand_as(fixed).flatten(1)
    return fixed.flatten(1), moved.flatten(1), weight / weight.sum(1, keepdim=True).clamp(min=TINY)


def _sum_over_chunks(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """The sum of `function` over chunks of the last axis of `tensors` (B, N)."""
    size = max(CHUNK // len(tensors[0]), 1)
    parts = zip(*(t.split(size, dim=-1) for t in tensors), strict=True)
    return sum(
        (checkpoint(function, *part) for part in parts),
        torch.zeros((), device=tensors[0].device, dtype=tensors[0].dtype),
    )


def _joint(counts: Counts) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Joint probabilities (B, bins, bins) of two images under weights, each (B, N)."""
    return lambda a, b, weight: (counts(a) * weight[..., None]).transpose(-1, -2) @ counts(b)


def _joint_of(fixed: Tensor, moved: Tensor, mask: Tensor | None, counts: Counts) -> Tensor:
    """Joint probabilities (B, bins, bins) of images (B, C, *shape) from 0 to 1."""
    return _sum_over_chunks(_joint(counts), *_flat(fixed, moved, mask))


def _independent(joint: Tensor) -> Tensor:
    """What joint probabilities (..., bins, bins) would be if the images were independent."""
    return joint.sum(-1, keepdim=True) * joint.sum(-2, keepdim=True)


def _information(joint: Tensor) -> Tensor:
    """Mutual information, nats, of joint probabilities (..., bins, bins)."""
    return (joint * ((joint + EPS).log() - (_independent(joint) + EPS).log())).sum((-1, -2))


@measure
def mi(
    fixed: Tensor,
    moved: Tensor,
    mask: Tensor | None = None,
    bins: int = 32,
    sigma: float = 1.0,
    kernel: Kernel = "gaussian",
    compat: Literal["none", "survey", "monai"] = "none",
) -> Tensor:
    """Minus the mutual information, nats (Wells et al. 1996, doi:10.1016/S1361-8415(01)80004-9; with
    `kernel` "bspline", Mattes et al. 2003, doi:10.1109/TMI.2003.809072): 0 where one image says nothing about
    the other, or is constant.

    Intensities are scaled from their least to their greatest in the mask; `sigma` is in bins, of the Gaussian
    kernel. compat: "survey" and "monai" clamp intensities to 0 to 1 instead, and give the values of
    `MutualInformation` (32 bins, sigma 1) and `GlobalMutualInformationLoss` (23 bins, sigma 0.5).
    """
    counts = _counts(kernel, bins, sigma)
    if compat == "none":
        return -_information(_joint_of(_unit(fixed, mask), _unit(moved, mask), mask, counts))
    joint = _joint_of(fixed.clamp(0, 1), moved.clamp(0, 1), mask, counts)
    product = _independent(joint)
    if compat == "survey":
        return -(joint * (joint / (product + 1e-6) + 1e-6).log()).sum((-1, -2))
    return -(joint * ((joint + 1e-7) / (product + 1e-7) + 1e-7).log()).sum((-1, -2))


@measure
def nmi(
    fixed: Tensor,
    moved: Tensor,
    mask: Tensor | None = None,
    bins: int = 32,
    sigma: float = 1.0,
    kernel: Kernel = "gaussian",
) -> Tensor:
    """2 - normalized mutual information (H(f) + H(m)) / H(f, m) (Studholme et al. 1999,
    doi:10.1016/S0031-3203(98)00091-0): 0 at best with hard bins, 1 for independent or constant images.

    Less than `mi` at the mercy of how much of the images overlaps. Parameters as in `mi`.
    """
    joint = _joint_of(_unit(fixed, mask), _unit(moved, mask), mask, _counts(kernel, bins, sigma))
    entropy = -(joint * (joint + EPS).log()).sum((-1, -2))
    return 1 - _information(joint) / entropy.clamp(min=TINY)


@measure
def lmi(
    fixed: Tensor,
    moved: Tensor,
    mask: Tensor | None = None,
    patch: int = 5,
    bins: int = 32,
    sigma: float = 1.0,
) -> Tensor:
    """Minus the mean mutual information, nats, of patches side by side, of `patch` voxels an axis, of those
    that lie inside image and mask (Guo 2019, MIT thesis: Multi-modal image registration).

    For contrasts whose relation changes over the image. A patch of 5 voxels an axis has few of them for 32
    bins, so even independent noise has some 0.4 nats: values are comparable only at the same settings.
    """
    counts = _joint(_gaussian(bins, sigma))

    def value(a: Tensor, b: Tensor) -> Tensor:
        return _information(counts(a, b, torch.full_like(a, 1 / a.shape[-1])))

    return -_over_patches(value, _unit(fixed, mask), _unit(moved, mask), mask, patch, shift=False)


def _over_patches(
    function: Callable[[Tensor, Tensor], Tensor],
    fixed: Tensor,
    moved: Tensor,
    mask: Tensor | None,
    patch: int,
    shift: bool,
) -> Tensor:
    """The mean (B,) of `function`, from (P, N), (P, N) to (P,), over patches inside the mask; with `shift`
    also over patches that begin half a patch later on every axis."""
    total, number = fixed.new_zeros(len(fixed)), fixed.new_zeros(len(fixed))
    for start in (0, patch // 2) if shift else (0,):
        a, b = (_patches(x, patch, start) for x in (fixed, moved))
        if a.numel() == 0:
            continue
        channels = a.shape[1] * a.shape[2]
        size = max(CHUNK // a.shape[-1], 1)
        chunks = zip(*(x.flatten(0, 2).split(size) for x in (a, b)), strict=True)
        values = torch.cat([checkpoint(function, *chunk) for chunk in chunks]).view(len(fixed), channels)
        if mask is None:
            inside = torch.ones_like(values)
        else:
            whole = (_patches(mask, patch, start) > 0.5).all(-1)
            inside = whole.expand(-1, a.shape[1], -1).flatten(1).to(values)
        total, number = total + (values * inside).sum(1), number + inside.sum(1)
    return total / number.clamp(min=1)


def _patches(x: Tensor, patch: int, start: int) -> Tensor:
    """(B, C, P, N): the P patches side by side of `x` (B, C, *shape), from voxel `start` on along each axis
    that is longer than a patch; what is left over at the far ends is not used."""
    for axis in range(2, x.ndim):
        width = min(patch, x.shape[axis])
        begin = start if x.shape[axis] > patch else 0
        count = (x.shape[axis] - begin) // width
        x = x.narrow(axis, begin, count * width)
    ndim = x.ndim - 2
    for axis in range(2, 2 + ndim):
        width = min(patch, x.shape[axis])
        x = x.unfold(axis, width, width) if width else x.unsqueeze(-1)
    return x.flatten(2, 1 + ndim).flatten(3)


def _explained(x: Tensor, y: Tensor, weight: Tensor, counts: Counts) -> tuple[Tensor, Tensor]:
    """The variance (B,) of `x` that `y` explains, and all of it, under weights of sum 1; each (B, N)."""
    mean = (weight * x).sum(-1, keepdim=True)
    centered = x - mean

    def sums(x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        values = torch.stack([weight, weight * x], dim=-1)
        return counts(y).transpose(-1, -2) @ values

    number, total = _sum_over_chunks(sums, centered, y, weight).unbind(-1)
    explained = (total.square() / number.clamp(min=TINY)).sum(-1) / number.sum(-1).clamp(min=TINY)
    return explained, (weight * centered.square()).sum(-1)


def _ratio(a: Tensor, b: Tensor, weight: Tensor, counts: Counts) -> Tensor:
    """Correlation ratio (B,), the mean of both directions; each (B, N)."""
    of_a, variance_a = _explained(a, b, weight, counts)
    of_b, variance_b = _explained(b, a, weight, counts)
    return (of_a / (variance_a + NOISE) + of_b / (variance_b + NOISE)) / 2


@measure
def cr(
    fixed: Tensor,
    moved: Tensor,
    mask: Tensor | None = None,
    bins: int = 32,
    sigma: float = 1.0,
    compat: Literal["none", "survey"] = "none",
) -> Tensor:
    """1 - correlation ratio, the mean of both directions (Roche et al. 1998, doi:10.1007/BFb0056301): near 0
    where each image is a function of the other, 1 for independent or constant images.

    Var(E[X | Y]) / Var(X), with Y counted in Gaussian bins; intensities are scaled as in `mi`. compat:
    "survey" gives the value of its `CorrRatio`: minus a third of the ratio, for intensities from 0 to 1.
    """
    if compat == "survey":
        return -_survey_ratio(*_flat(fixed, moved, mask), bins, sigma)
    a, b, weight = _flat(_unit(fixed, mask), _unit(moved, mask), mask)
    return 1 - _ratio(a, b, weight, _gaussian(bins, sigma))


def _survey_ratio(a: Tensor, b: Tensor, weight: Tensor, bins: int, sigma: float) -> Tensor:
    """Bins whose shares aren't normalized, of a width of sigma / sqrt(2), and the sample's variance."""

    def counts(x: Tensor) -> Tensor:
        distance = x[..., None] * (bins - 1) - torch.arange(bins, device=x.device, dtype=x.dtype)
        return torch.exp(-distance.square() / sigma**2)

    size = (weight > 0).sum(-1)
    total = torch.zeros_like(weight[:, 0])
    for x, y in ((a, b), (b, a)):
        explained, variance = _explained(x, y, weight, counts)
        total = total + explained / (variance * size / (size - 1) + 1e-5)
    return total / 2 / 3


@measure
def lcr(
    fixed: Tensor,
    moved: Tensor,
    mask: Tensor | None = None,
    patch: int = 9,
    bins: int = 32,
    sigma: float = 1.0,
) -> Tensor:
    """`cr` in patches of `patch` voxels an axis, side by side, and again from half a patch on: the mean over
    those that lie inside image and mask. For contrasts whose relation changes over the image."""
    counts = _gaussian(bins, sigma)

    def value(a: Tensor, b: Tensor) -> Tensor:
        return _ratio(a, b, torch.full_like(a, 1 / a.shape[-1]), counts)

    ratio = _over_patches(value, _unit(fixed, mask), _unit(moved, mask), mask, patch, shift=True)
    return 1 - ratio
