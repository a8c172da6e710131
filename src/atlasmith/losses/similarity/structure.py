"""Measures across contrasts: self-similarity, edges, features."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from atlasmith.losses.similarity.filters import box_mean, gaussian_blur
from atlasmith.losses.similarity.measure import TINY, average, measure


def _shifted(x: Tensor, offset: tuple[int, ...], margin: int) -> Tensor:
    """x(p + offset), `margin` voxels less at each side."""
    for axis, step in enumerate(offset, start=2):
        x = x.narrow(axis, margin + step, x.shape[axis] - 2 * margin)
    return x


def _pairs(ndim: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Neighbors at a distance of sqrt(2) from one another: 4 pairs in 2-D, 12 in 3-D."""
    units = [tuple(sign if axis == i else 0 for i in range(ndim)) for axis in range(ndim) for sign in (-1, 1)]
    return [
        (p, q)
        for p, q in itertools.combinations(units, 2)
        if sum((a - b) ** 2 for a, b in zip(p, q, strict=True)) == 2
    ]


def _deep(mask: Tensor | None, depth: int) -> Tensor | None:
    """The mask where the image is known up to `depth` voxels away on each axis; beyond it borders repeat."""
    if mask is None:
        return None
    padded = F.pad(mask, [depth] * (2 * (mask.ndim - 2)), mode="replicate")
    width = 2 * depth + 1
    return (box_mean(padded, [width] * (mask.ndim - 2)) > 1 - 0.5 / width ** (mask.ndim - 2)).to(mask)


def mind_ssc(image: Tensor, mask: Tensor | None = None, radius: int = 2, dilation: int = 2) -> Tensor:
    """Self-similarity context (B, pairs, *shape) of an image (B, 1, *shape), from 0 to 1; borders repeat
    (Heinrich et al. 2013, doi:10.1007/978-3-642-40811-3_24).

    Each descriptor depends on its own image alone (on the mask's part of it), and a constant image's is 1.
    Two pairs with the same difference vector are one map of patch distances at two places, so half of the
    maps are computed.
    """
    ndim = image.ndim - 2
    padded = F.pad(image, [2 * dilation + radius] * (2 * ndim), mode="replicate")
    here = _shifted(padded, (0,) * ndim, dilation)
    maps: dict[tuple[int, ...], Tensor] = {}
    distances = []
    for p, q in _pairs(ndim):
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


@measure
def mind(
    fixed: Tensor, moved: Tensor, mask: Tensor | None = None, radius: int = 2, dilation: int = 2
) -> Tensor:
    """Mean squared difference of `mind_ssc` descriptors, channel by channel: 0 at best, also for an image
    and its inverse. For pairs of contrasts whose edges lie at the same places."""
    inside = _deep(mask, radius + dilation)

    def describe(x: Tensor) -> Tensor:
        weight = None if inside is None else inside.repeat_interleave(x.shape[1], 0)
        return mind_ssc(x.flatten(0, 1)[:, None], weight, radius, dilation).unflatten(0, x.shape[:2])

    return average((describe(fixed) - describe(moved)).square().mean(2), inside)


@measure
def ngf(fixed: Tensor, moved: Tensor, mask: Tensor | None = None, noise: float = 0.5) -> Tensor:
    """1 - mean squared cosine between gradients (Haber and Modersitzki 2006, doi:10.1007/11866763_89).

    <grad f, grad m>^2 / ((|grad f|^2 + e^2) (|grad m|^2 + e^2)), by central differences; e is `noise` times
    the image's mean gradient, so gain and offset of either image change nothing. Flat places count as 1, so
    an image against itself doesn't reach 0; nor is it promised to be the optimum of a pair of contrasts
    whose edges differ in strength.
    """
    axes = tuple(range(2, fixed.ndim))
    inside = _deep(mask, 1)
    gradients = [torch.stack(torch.gradient(x, dim=axes), dim=2) for x in (fixed, moved)]
    squares = [g.square().sum(2) for g in gradients]
    levels = [noise * average((s + TINY).sqrt(), inside).view(-1, *[1] * (fixed.ndim - 1)) for s in squares]
    dot = (gradients[0] * gradients[1]).sum(2)
    product = torch.ones_like(dot)
    for square, level in zip(squares, levels, strict=True):
        product = product * (square + level.square() + TINY)
    return average(1 - dot.square() / product, inside)


def jets(image: Tensor, sigma: float = 1.0) -> Tensor:
    """Gaussian derivatives of first and second order (B, C', *shape) of an image (B, C, *shape)."""
    axes = range(2, image.ndim)
    orders = [(axis,) for axis in axes] + list(itertools.combinations_with_replacement(axes, 2))
    return torch.cat([gaussian_blur(image, sigma, order) for order in orders], dim=1)


@measure
def feature(
    fixed: Tensor,
    moved: Tensor,
    mask: Tensor | None = None,
    network: Callable[[Tensor], Tensor] = jets,
) -> Tensor:
    """Mean squared difference of a network's features, of unit length at each voxel (Zhang et al. 2018,
    doi:10.1109/CVPR.2018.00068): 0 at best.

    network: from (B, C, *shape) to (B, features, *shape or smaller); it sees zeros outside the mask. Without
    one, Gaussian derivatives (`jets`).
    """

    def unit(x: Tensor) -> Tensor:
        features = network(x if mask is None else x * mask)
        return features / (features.square().sum(1, keepdim=True) + 1e-8).sqrt()

    ours, theirs = unit(fixed), unit(moved)
    inside = None if mask is None else F.interpolate(mask, size=ours.shape[2:], mode="nearest")
    return average((ours - theirs).square().sum(1, keepdim=True), inside)
