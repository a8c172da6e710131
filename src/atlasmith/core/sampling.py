"""Sample, warp and resize images and label maps on one grid, in voxels.

Contract: a displacement `u` is a pull-back in voxels of the fixed grid, `moved(x) = moving(x + u(x))`;
tensors are (B, C, *shape) in NIfTI axis order, and channel d of a displacement moves along axis d.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

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
    return F.grid_sample(
        image, normalized_grid(displacement), mode=mode, padding_mode=padding, align_corners=True
    )


def normalized_units(shape: Sequence[int]) -> list[float]:
    """What a voxel along each axis is where grid_sample has -1 to 1."""
    return [2 / max(n - 1, 1) for n in shape]


def normalized_grid(displacement: Tensor) -> Tensor:
    """Where the voxels go, as grid_sample has it: (B, *shape, d), the last axis first, from -1 to 1."""
    shape = displacement.shape[2:]
    ends = []
    for axis, unit in enumerate(normalized_units(shape)):
        start = torch.arange(shape[axis], device=displacement.device, dtype=displacement.dtype) * unit - 1
        start = start.view(-1, *[1] * (len(shape) - axis - 1))
        ends.append(torch.add(start, displacement[:, axis], alpha=unit))
    return torch.stack(ends[::-1], dim=-1)


def half_shape(shape: Sequence[int]) -> list[int]:
    """The shape of velocities between images of `shape`: half of it, rounded up."""
    return [-(-n // 2) for n in shape]


def resize(image: Tensor, shape: Sequence[int]) -> Tensor:
    """`image` (B, C, *old) on a grid of `shape` whose corner voxels coincide, linearly interpolated."""
    mode = "bilinear" if len(shape) == 2 else "trilinear"
    return F.interpolate(image, size=tuple(shape), mode=mode, align_corners=True)
