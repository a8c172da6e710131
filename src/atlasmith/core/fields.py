"""Velocity and displacement fields: exponential, composition, resizing, Jacobian determinant.

A displacement `u` is a pull-back in voxels of the fixed grid, `moved(x) = moving(x + u(x))`. Tensors are
(B, C, *shape) in NIfTI axis order, and channel d of a displacement is its component along axis d.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from atlasmith.core.sampling import resize, warp, warp_gradients


def compose(outer: Tensor, inner: Tensor) -> Tensor:
    """Compose two displacements: inner + outer(x + inner), that of x -> outer(inner(x)).

    Args:
        outer: Displacement (B, d, *shape) of the map that is applied last, voxels; its border values repeat.
        inner: Displacement (B, d, *shape) of the map that is applied first, voxels.

    Returns:
        The displacement (B, d, *shape), voxels.

    Example:
        >>> shift = torch.ones(1, 2, 4, 4)
        >>> bool((compose(shift, shift) == 2).all())
        True
    """
    return inner + warp(outer, inner, padding="border")


def invert(displacement: Tensor, iterations: int = 12) -> Tensor:
    """Invert a displacement by the fixed-point iteration v <- -u(x + v).

    (Chen et al. 2008, doi:10.1118/1.2816107.) It converges where the displacement's derivative is below 1, by
    that factor in each iteration.

    Args:
        displacement: u (B, d, *shape), voxels; its border values repeat.
        iterations: Number of iterations.

    Returns:
        The displacement (B, d, *shape) of the inverse map, voxels.

    Example:
        >>> invert(torch.full((1, 2, 4, 4), 0.5))[0, 0, 0, 0]
        tensor(-0.5000)
    """
    inverse = -displacement
    for _ in range(iterations):
        inverse = -warp(displacement, inverse, padding="border")
    return inverse


def exponentiate(velocity: Tensor, integration_steps: int, save_memory: bool = False) -> Tensor:
    """Integrate a stationary velocity field to the displacement exp(v) - id, by scaling and squaring.

    (Arsigny et al. 2006, doi:10.1007/11866565_113.) The inverse map is exp(-v).

    Args:
        velocity: (B, d, *shape), voxels.
        integration_steps: Number of squarings; the velocity is divided by 2^integration_steps first.
        save_memory: Keep only every second displacement for the gradient, and compute the others again.

    Returns:
        The displacement (B, d, *shape), voxels.

    Example:
        >>> exponentiate(torch.ones(1, 2, 8, 8), integration_steps=6)[0, :, 4, 4]
        tensor([1., 1.])
    """
    displacement = velocity / 2**integration_steps
    if save_memory:
        result: Tensor = _ScalingAndSquaring.apply(displacement, integration_steps)
        return result
    for _ in range(integration_steps):
        displacement = compose(displacement, displacement)
    return displacement


def compose_velocities(outer: Tensor, inner: Tensor) -> Tensor:
    """Approximate the velocity whose exponential is the composition exp(outer) after exp(inner).

    The sum and half the Lie bracket, the first terms of the Baker-Campbell-Hausdorff formula (Vercauteren et
    al. 2008, doi:10.1007/978-3-540-85988-8_90).

    Args:
        outer: Velocity (B, d, *shape) of the map that is applied last, voxels.
        inner: Velocity (B, d, *shape) of the map that is applied first, voxels.

    Returns:
        The velocity (B, d, *shape), voxels.
    """
    bracket = _directional_derivative(outer, inner) - _directional_derivative(inner, outer)
    return outer + inner + bracket / 2


def _directional_derivative(field: Tensor, direction: Tensor) -> Tensor:
    """Derivative of `field` along `direction`, both (B, d, *shape) in voxels."""
    slopes = _slopes(field)
    return torch.stack([slope * direction[:, axis : axis + 1] for axis, slope in enumerate(slopes)]).sum(0)


def _slopes(field: Tensor) -> list[Tensor]:
    """Derivatives along each axis by central differences; 0 along an axis of one voxel."""
    axes = range(2, field.ndim)
    return [
        torch.gradient(field, dim=axis)[0] if field.shape[axis] > 1 else torch.zeros_like(field)
        for axis in axes
    ]


class _ScalingAndSquaring(torch.autograd.Function):
    """Squarings of a displacement with an explicit gradient; autograd would keep two fields for each step."""

    @staticmethod
    def forward(ctx: Any, displacement: Tensor, integration_steps: int) -> Tensor:
        kept = []
        for step in range(integration_steps):
            # The last one is computed again in the backward pass.
            if step % 2 == 0 and step < max(integration_steps - 1, 1):
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
    """Gradient with respect to u (B, d, *shape) of compose(u, u), from that with respect to its result."""
    by_outer, by_inner = warp_gradients(displacement, displacement, gradient, padding="border")
    assert by_outer is not None and by_inner is not None
    return by_outer.add_(gradient).add_(by_inner)


def resize_displacement(displacement: Tensor, shape: Sequence[int]) -> Tensor:
    """Resize a displacement or velocity field and scale its values to the new voxels.

    Args:
        displacement: (B, d, *old), voxels of its grid.
        shape: Size of the new grid, whose corner voxels coincide with those of the old one.

    Returns:
        The field (B, d, *shape), voxels of the new grid.
    """
    if tuple(displacement.shape[2:]) == tuple(shape):
        return displacement
    resized = resize(displacement, shape)
    ratios = [(n - 1) / max(old - 1, 1) for n, old in zip(shape, displacement.shape[2:], strict=True)]
    return resized * per_channel(ratios, resized)


def per_channel(values: Sequence[float], like: Tensor) -> Tensor:
    """Return values (d) as a tensor (1, d, 1, ...) that broadcasts with `like` (B, d, *shape)."""
    # Filled on the device: a GPU's queue would have to run empty before a list is copied to it.
    filled = [like.new_full((), value) for value in values]
    return torch.stack(filled).view(1, -1, *[1] * (like.ndim - 2))


def to_mm(field: Tensor, spacing: Sequence[float]) -> Tensor:
    """Convert a displacement or velocity (B, d, *shape) from voxels of size `spacing` (d) mm to mm."""
    return field * per_channel(spacing, field)


def jacobian_determinant(displacement: Tensor) -> Tensor:
    """Compute det D(id + u) by central differences, one-sided at the border as `numpy.gradient`.

    Args:
        displacement: u (B, d, *shape), voxels.

    Returns:
        The determinants (B, *shape); 1 where nothing moves, at most 0 where the map folds.
    """
    columns = _slopes(displacement)
    for axis, column in enumerate(columns):
        column[:, axis] += 1
    return determinant(columns)


def determinant(rows: Sequence[Tensor]) -> Tensor:
    """Compute the determinant of 2 x 2 or 3 x 3 matrices at each voxel.

    Written out, since an LU decomposition of many small matrices is slow, and its derivative undefined where
    one is singular.

    Args:
        rows: Rows, or columns, of the matrices: d tensors (B, d, *shape).

    Returns:
        The determinants (B, *shape).
    """
    if len(rows) == 2:
        return rows[0][:, 0] * rows[1][:, 1] - rows[0][:, 1] * rows[1][:, 0]
    return (rows[0] * torch.linalg.cross(rows[1], rows[2], dim=1)).sum(dim=1)
