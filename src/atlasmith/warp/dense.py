"""Displacements on one grid, in voxels."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from atlasmith.recompute import recompute

Mode = Literal["bilinear", "nearest"]
Padding = Literal["zeros", "border"]


def coordinates(shape: Sequence[int], like: Tensor) -> Tensor:
    """Voxel coordinates (1, d, *shape) with the device and type of `like`."""
    axes = [torch.arange(n, device=like.device, dtype=like.dtype) for n in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]


def sample(image: Tensor, points: Tensor, mode: Mode = "bilinear", padding: Padding = "zeros") -> Tensor:
    """Values (B, C, *out) of `image` (B, C, *in) at voxel coordinates `points` (B, d, *out), d 2 or 3."""
    sizes = torch.tensor(image.shape[2:], device=points.device, dtype=points.dtype)
    scale = 2 / (sizes - 1).clamp(min=1)
    # grid_sample wants (B, *out, d) with the last axis of the image first, from -1 to 1.
    grid = (points.movedim(1, -1) * scale - 1).flip(-1)
    return F.grid_sample(image, grid, mode=mode, padding_mode=padding, align_corners=True)


def sample_labels(labels: Tensor, points: Tensor) -> Tensor:
    """Labels (*out) of an integer map (*in) at voxel coordinates `points` (1, d, *out).

    The argmax of the linearly interpolated one-hot maps, 0 outside, ties to the smallest label. At most 2^d
    labels have weight at a point, so only those are compared, however many labels there are.
    """
    ndim = points.shape[1]
    limits = torch.tensor(labels.shape, device=points.device)
    low = points[0].reshape(ndim, -1).floor()
    fraction = points[0].reshape(ndim, -1) - low
    corners, weights = [], []
    for corner in itertools.product((0, 1), repeat=ndim):
        offset = torch.tensor(corner, device=points.device)[:, None]
        index = low.long() + offset
        inside = ((index >= 0) & (index < limits[:, None])).all(dim=0)
        values = labels[tuple(i.clamp(0, n - 1) for i, n in zip(index, labels.shape, strict=True))]
        corners.append(torch.where(inside, values, 0))
        weights.append(torch.where(offset == 1, fraction, 1 - fraction).prod(dim=0))
    values, weight = torch.stack(corners), torch.stack(weights)
    winner = values[0]
    best = torch.full_like(weight[0], -1)
    for candidate in values:
        score = torch.where(values == candidate, weight, 0).sum(dim=0)
        # A little slack, so that ties don't hang on rounding.
        better = (score > best + 1e-6) | ((score > best - 1e-6) & (candidate < winner))
        winner, best = torch.where(better, candidate, winner), torch.where(better, score, best)
    return winner.reshape(points.shape[2:])


def warp(image: Tensor, displacement: Tensor, mode: Mode = "bilinear", padding: Padding = "zeros") -> Tensor:
    """`image` (B, C, *shape) pulled back by `displacement` (B, d, *shape) in voxels."""
    return sample(image, coordinates(displacement.shape[2:], displacement) + displacement, mode, padding)


def compose(outer: Tensor, inner: Tensor) -> Tensor:
    """The displacement (B, d, *shape) of x -> outer(inner(x)): inner + outer(x + inner)."""
    return inner + warp(outer, inner, padding="border")


def exponentiate(velocity: Tensor, squarings: int, save_memory: bool = False) -> Tensor:
    """The displacement exp(v) - id of a stationary velocity (B, d, *shape), both in voxels.

    Scaling and squaring (Arsigny et al. 2006, doi:10.1007/11866565_113). Its inverse is exp(-v).
    `save_memory` computes each squaring anew for the gradient instead of keeping what it needs.
    """
    displacement = velocity / 2**squarings
    for _ in range(squarings):
        displacement = recompute(_square, displacement) if save_memory else _square(displacement)
    return displacement


def _square(displacement: Tensor) -> Tensor:
    return compose(displacement, displacement)


def resize_displacement(displacement: Tensor, shape: Sequence[int]) -> Tensor:
    """The same displacement or velocity on a grid of `shape`, whose corner voxels coincide; values scaled."""
    if tuple(displacement.shape[2:]) == tuple(shape):
        return displacement
    mode = "bilinear" if len(shape) == 2 else "trilinear"
    resized = F.interpolate(displacement, size=tuple(shape), mode=mode, align_corners=True)
    ratios = [(n - 1) / max(old - 1, 1) for n, old in zip(shape, displacement.shape[2:], strict=True)]
    return resized * resized.new_tensor(ratios).view(1, -1, *[1] * len(shape))


def jacobian_determinant(displacement: Tensor) -> Tensor:
    """det D(id + u) (B, *shape) of a displacement (B, d, *shape) in voxels, by central differences.

    One-sided at the border, as `numpy.gradient`.
    """
    ndim = displacement.shape[1]
    axes = tuple(range(2, 2 + ndim))
    rows = torch.stack(torch.gradient(displacement, dim=axes), dim=2)  # (B, component, axis, *shape)
    jacobian = rows.movedim((1, 2), (-2, -1)) + torch.eye(ndim, device=rows.device, dtype=rows.dtype)
    return torch.linalg.det(jacobian)
