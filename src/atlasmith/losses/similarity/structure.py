"""Similarities across contrasts: of self-similarity, edges and features."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from atlasmith.core.choices import Positive
from atlasmith.losses.similarity.base import TINY, Similarity, average
from atlasmith.losses.similarity.filters import BoxWindows, box_mean, gaussian_blur


def _shifted(x: Tensor, offset: tuple[int, ...], margin: int) -> Tensor:
    """x(p + offset) at the voxels p that are at least `margin` voxels inside."""
    for axis, step in enumerate(offset, start=2):
        x = x.narrow(axis, margin + step, x.shape[axis] - 2 * margin)
    return x


def _neighbor_pairs(ndim: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Pairs of face neighbors at a distance of sqrt(2) from one another: 4 in 2-D, 12 in 3-D."""
    units = [tuple(sign if axis == i else 0 for i in range(ndim)) for axis in range(ndim) for sign in (-1, 1)]
    return [
        (p, q)
        for p, q in itertools.combinations(units, 2)
        if sum((a - b) ** 2 for a, b in zip(p, q, strict=True)) == 2
    ]


def eroded(mask: Tensor, depth: int) -> Tensor:
    """Return the mask where the image is known up to `depth` voxels away on each axis.

    Args:
        mask: (B, 1, *shape), which repeats at the borders.
        depth: Voxels.
    """
    padded = F.pad(mask, [depth] * (2 * (mask.ndim - 2)), mode="replicate") > 0.5
    return BoxWindows([2 * depth + 1] * (mask.ndim - 2)).inside(padded).to(mask)


def mind_ssc(image: Tensor, mask: Tensor | None = None, radius: int = 2, dilation: int = 2) -> Tensor:
    """Compute the self-similarity context (Heinrich et al. 2013, doi:10.1007/978-3-642-40811-3_24).

    The distance between the patches at either neighbor of each pair, exp(-distance / variance), with the
    image's borders repeated. A descriptor depends on its own image alone, and a constant image's is 1. Two
    pairs with the same difference vector have one map of patch distances, so half of the maps are computed.

    Args:
        image: (B, 1, *shape).
        mask: (B, 1, *shape) over which the typical variance is averaged, or None.
        radius: Radius of the patches, voxels.
        dilation: Distance of the neighbors from the voxel, voxels.

    Returns:
        Descriptors (B, pairs, *shape), from 0 to 1: 4 pairs in 2-D, 12 in 3-D.
    """
    ndim = image.ndim - 2
    padded = F.pad(image, [2 * dilation + radius] * (2 * ndim), mode="replicate")
    here = _shifted(padded, (0,) * ndim, dilation)
    maps: dict[tuple[int, ...], Tensor] = {}
    distances = []
    for p, q in _neighbor_pairs(ndim):
        vector, base = max(
            (tuple(dilation * (b - a) for a, b in zip(start, end, strict=True)), start)
            for start, end in ((p, q), (q, p))
        )
        if vector not in maps:
            away = _shifted(padded, vector, dilation)
            maps[vector] = box_mean((here - away).square(), [2 * radius + 1] * ndim)
        distances.append(_shifted(maps[vector], tuple(dilation * a for a in base), dilation))
    distance = torch.cat(distances, dim=1)
    distance = distance - distance.amin(1, keepdim=True)
    variance = distance.mean(1, keepdim=True)
    typical = average(variance, mask).view(-1, *[1] * (ndim + 1))
    return torch.exp(-distance / variance.clamp(0.001 * typical + TINY, 1000 * typical + TINY))


@Similarity.declare(
    "Mean squared difference of self-similarity descriptors. For another modality, also where "
    "local noise varies."
)
def mind(
    fixed: Tensor, moved: Tensor, mask: Tensor | None = None, radius: int = 2, dilation: int = 2
) -> Tensor:
    """Compute the mean squared difference of `mind_ssc` descriptors, channel by channel.

    0 at best, also for an image and its inverse. For pairs of contrasts with edges at the same positions.

    Args:
        radius: Radius of the patches, voxels.
        dilation: Distance of the neighbors from the voxel, voxels.
    """
    inside = None if mask is None else eroded(mask, radius + dilation)

    def describe(x: Tensor) -> Tensor:
        weight = None if inside is None else inside.repeat_interleave(x.shape[1], 0)
        return mind_ssc(x.flatten(0, 1)[:, None], weight, radius, dilation).unflatten(0, x.shape[:2])

    return average((describe(fixed) - describe(moved)).square().mean(2), inside)


@Similarity.declare("1 - mean squared cosine of the gradients. For another modality with clear edges.")
def ngf(fixed: Tensor, moved: Tensor, mask: Tensor | None = None, noise: Positive = 0.5) -> Tensor:
    """Compute 1 - mean squared cosine between gradients (Haber and Modersitzki 2006,
    doi:10.1007/11866763_89).

    <grad f, grad m>^2 / ((|grad f|^2 + e^2) (|grad m|^2 + e^2)), by central differences; e is `noise` times
    the image's mean gradient, so gain and offset of either image change nothing. Flat regions count as 1, so
    an image against itself gives more than 0; and where two contrasts' edges differ in strength, alignment
    need not be the optimum.

    Args:
        noise: e in units of the image's mean gradient.
    """
    axes = tuple(range(2, fixed.ndim))
    inside = None if mask is None else eroded(mask, 1)
    gradients = [torch.stack(torch.gradient(x, dim=axes), dim=2) for x in (fixed, moved)]
    squares = [g.square().sum(2) for g in gradients]
    levels = [noise * average((s + TINY).sqrt(), inside).view(-1, *[1] * (fixed.ndim - 1)) for s in squares]
    dot = (gradients[0] * gradients[1]).sum(2)
    product = torch.ones_like(dot)
    for square, level in zip(squares, levels, strict=True):
        product = product * (square + level.square() + TINY)
    return average(1 - dot.square() / product, inside)


def jets(image: Tensor, sigma: float = 1.0) -> Tensor:
    """Compute the Gaussian derivatives of first and second order.

    Args:
        image: (B, C, *shape).
        sigma: Standard deviation of the Gaussian, voxels.

    Returns:
        Derivatives (B, C', *shape): C' is 5 C in 2-D, 9 C in 3-D.
    """
    axes = range(2, image.ndim)
    orders = [(axis,) for axis in axes] + list(itertools.combinations_with_replacement(axes, 2))
    return torch.cat([gaussian_blur(image, sigma, order) for order in orders], dim=1)


@Similarity.declare("Mean squared difference of a network's features. For features that a user trained.")
def feature(
    fixed: Tensor,
    moved: Tensor,
    mask: Tensor | None = None,
    network: Callable[[Tensor], Tensor] = jets,
) -> Tensor:
    """Compute the mean squared difference of features of unit length at each voxel: 0 at best (Zhang et al.
    2018, doi:10.1109/CVPR.2018.00068).

    Args:
        network: From images (B, C, *shape), zero outside the mask, to features (B, C', *shape or smaller); by
            default Gaussian derivatives.
    """

    def unit(x: Tensor) -> Tensor:
        features = network(x if mask is None else x * mask)
        return features / (features.square().sum(1, keepdim=True) + 1e-8).sqrt()

    a, b = unit(fixed), unit(moved)
    inside = None if mask is None else F.interpolate(mask, size=a.shape[2:], mode="nearest")
    return average((a - b).square().sum(1, keepdim=True), inside)
