"""Displacements on one grid, in voxels."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

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
    return F.grid_sample(image, _grid(displacement), mode=mode, padding_mode=padding, align_corners=True)


def _units(shape: Sequence[int]) -> list[float]:
    """What a voxel along each axis is where grid_sample has -1 to 1."""
    return [2 / max(n - 1, 1) for n in shape]


def _grid(displacement: Tensor) -> Tensor:
    """Where the voxels go, as grid_sample has it: (B, *shape, d), the last axis first, from -1 to 1."""
    shape = displacement.shape[2:]
    ends = []
    for axis, unit in enumerate(_units(shape)):
        start = torch.arange(shape[axis], device=displacement.device, dtype=displacement.dtype) * unit - 1
        start = start.view(-1, *[1] * (len(shape) - axis - 1))
        ends.append(torch.add(start, displacement[:, axis], alpha=unit))
    return torch.stack(ends[::-1], dim=-1)


def compose(outer: Tensor, inner: Tensor) -> Tensor:
    """The displacement (B, d, *shape) of x -> outer(inner(x)): inner + outer(x + inner)."""
    return inner + warp(outer, inner, padding="border")


def exponentiate(velocity: Tensor, squarings: int, save_memory: bool = False) -> Tensor:
    """The displacement exp(v) - id of a stationary velocity (B, d, *shape), both in voxels.

    Scaling and squaring (Arsigny et al. 2006, doi:10.1007/11866565_113). Its inverse is exp(-v).
    `save_memory` keeps every second displacement for the gradient, and computes the others anew.
    """
    displacement = velocity / 2**squarings
    if save_memory:
        result: Tensor = _Squarings.apply(displacement, squarings)
        return result
    for _ in range(squarings):
        displacement = compose(displacement, displacement)
    return displacement


def compose_velocities(outer: Tensor, inner: Tensor) -> Tensor:
    """About the velocity (B, d, *shape), in voxels, whose exponential is exp(outer) after exp(inner).

    Their sum and half their Lie bracket, the first terms of the Baker-Campbell-Hausdorff formula (Vercauteren
    et al. 2008, doi:10.1007/978-3-540-85988-8_90).
    """
    return outer + inner + (_along(outer, inner) - _along(inner, outer)) / 2


def _along(field: Tensor, direction: Tensor) -> Tensor:
    """The derivative of `field` along `direction`, both (B, d, *shape) in voxels."""
    slopes = torch.gradient(field, dim=tuple(range(2, field.ndim)))
    return torch.stack([slope * direction[:, [axis]] for axis, slope in enumerate(slopes)]).sum(0)


class _Squarings(torch.autograd.Function):
    """A displacement composed with itself, again and again, with a gradient written out: autograd would keep
    two fields a step for it."""

    @staticmethod
    def forward(ctx: Any, displacement: Tensor, squarings: int) -> Tensor:
        kept = []
        for step in range(squarings):
            if step % 2 == 0 and step < max(squarings - 1, 1):  # the last needn't outlive the forward pass
                kept.append(displacement)
            displacement = compose(displacement, displacement)
        ctx.squarings = squarings
        ctx.save_for_backward(*kept)
        return displacement

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        kept = ctx.saved_tensors
        for step in reversed(range(ctx.squarings)):
            start = min(step // 2, len(kept) - 1)
            displacement = kept[start]
            for _ in range(step - 2 * start):
                displacement = compose(displacement, displacement)
            gradient = _squared_gradient(displacement, gradient)
        return gradient, None


def _squared_gradient(displacement: Tensor, gradient: Tensor) -> Tensor:
    """The gradient by u (B, d, *shape) of compose(u, u), given that by its result."""
    units = _units(displacement.shape[2:])
    backward = {2: torch.ops.aten.grid_sampler_2d_backward, 3: torch.ops.aten.grid_sampler_3d_backward}
    bilinear, border, align_corners = 0, 1, True
    result, by_grid = backward[len(units)](
        gradient, displacement, _grid(displacement), bilinear, border, align_corners, [True, True]
    )
    result += gradient
    for axis, unit in enumerate(units):
        result[:, axis].add_(by_grid[..., -1 - axis], alpha=unit)
    return result


def half_shape(shape: Sequence[int]) -> list[int]:
    """The shape of velocities between images of `shape`: half of it, rounded up."""
    return [-(-n // 2) for n in shape]


def resize(image: Tensor, shape: Sequence[int]) -> Tensor:
    """`image` (B, C, *old) on a grid of `shape` whose corner voxels coincide, linearly interpolated."""
    mode = "bilinear" if len(shape) == 2 else "trilinear"
    return F.interpolate(image, size=tuple(shape), mode=mode, align_corners=True)


def resize_displacement(displacement: Tensor, shape: Sequence[int]) -> Tensor:
    """The same displacement or velocity on a grid of `shape`, whose corner voxels coincide; values scaled."""
    if tuple(displacement.shape[2:]) == tuple(shape):
        return displacement
    resized = resize(displacement, shape)
    ratios = [(n - 1) / max(old - 1, 1) for n, old in zip(shape, displacement.shape[2:], strict=True)]
    return resized * resized.new_tensor(ratios).view(1, -1, *[1] * len(shape))


def jacobian_determinant(displacement: Tensor) -> Tensor:
    """det D(id + u) (B, *shape) of a displacement (B, d, *shape) in voxels, by central differences.

    One-sided at the border, as `numpy.gradient`.
    """
    columns = list(torch.gradient(displacement, dim=tuple(range(2, displacement.ndim))))
    for axis, column in enumerate(columns):
        column[:, axis] += 1
    if len(columns) == 2:
        (a, b), (c, d) = (column.unbind(1) for column in columns)
        return a * d - b * c
    first, second, third = columns
    return (first * torch.linalg.cross(second, third, dim=1)).sum(1)
