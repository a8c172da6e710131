"""Velocity and displacement fields: exponentiate, compose, resize, Jacobian.

Contract: a displacement `u` is a pull-back in voxels of the fixed grid, `moved(x) = moving(x + u(x))`;
tensors are (B, C, *shape) in NIfTI axis order, and channel d of a displacement moves along axis d.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from atlasmith.core.sampling import normalized_grid, normalized_units, resize, warp


def compose(outer: Tensor, inner: Tensor) -> Tensor:
    """The displacement (B, d, *shape) of x -> outer(inner(x)): inner + outer(x + inner)."""
    return inner + warp(outer, inner, padding="border")


def exponentiate(velocity: Tensor, integration_steps: int, save_memory: bool = False) -> Tensor:
    """The displacement exp(v) - id of a stationary velocity (B, d, *shape), both in voxels.

    Scaling and squaring (Arsigny et al. 2006, doi:10.1007/11866565_113). Its inverse is exp(-v).
    `save_memory` keeps every second displacement for the gradient, and computes the others anew.
    """
    displacement = velocity / 2**integration_steps
    if save_memory:
        result: Tensor = _ScalingAndSquaring.apply(displacement, integration_steps)
        return result
    for _ in range(integration_steps):
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


class _ScalingAndSquaring(torch.autograd.Function):
    """A displacement composed with itself, again and again, with a gradient written out: autograd would keep
    two fields a step for it."""

    @staticmethod
    def forward(ctx: Any, displacement: Tensor, integration_steps: int) -> Tensor:
        kept = []
        for step in range(integration_steps):
            if step % 2 == 0 and step < max(
                integration_steps - 1, 1
            ):  # the last needn't outlive the forward pass
                kept.append(displacement)
            displacement = compose(displacement, displacement)
        ctx.integration_steps = integration_steps
        ctx.save_for_backward(*kept)
        return displacement

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        kept = ctx.saved_tensors
        for step in reversed(range(ctx.integration_steps)):
            start = min(step // 2, len(kept) - 1)
            displacement = kept[start]
            for _ in range(step - 2 * start):
                displacement = compose(displacement, displacement)
            gradient = _squared_gradient(displacement, gradient)
        return gradient, None


def _squared_gradient(displacement: Tensor, gradient: Tensor) -> Tensor:
    """The gradient by u (B, d, *shape) of compose(u, u), given that by its result."""
    units = normalized_units(displacement.shape[2:])
    backward = {2: torch.ops.aten.grid_sampler_2d_backward, 3: torch.ops.aten.grid_sampler_3d_backward}
    bilinear, border, align_corners = 0, 1, True
    result, by_grid = backward[len(units)](
        gradient, displacement, normalized_grid(displacement), bilinear, border, align_corners, [True, True]
    )
    result += gradient
    for axis, unit in enumerate(units):
        result[:, axis].add_(by_grid[..., -1 - axis], alpha=unit)
    return result


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
