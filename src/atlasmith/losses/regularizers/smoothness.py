"""Regularizers of a field's size and derivatives."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from atlasmith.core.choices import Positive
from atlasmith.core.cosines import cosine_transform, laplacian_eigenvalues
from atlasmith.losses.regularizers.base import Regularizer, average
from atlasmith.losses.regularizers.derivatives import average_over_simplices, difference


@Regularizer.declare("Mean squared first derivative. The default.")
def diffusion(velocity: Tensor, spacing: Sequence[float], voxel_weight: Tensor | None = None) -> Tensor:
    """Compute the mean squared first derivative over voxels, components and axes.

    u = 0.1 x in 3-D gives 0.01 / 9 (Balakrishnan et al. 2019, doi:10.1109/TMI.2019.2897538).
    """
    axes = range(2, velocity.ndim)
    slopes = [difference(velocity, axis, spacing) for axis in axes]
    return torch.stack([average(slope.square(), voxel_weight) for slope in slopes]).mean()


@Regularizer.declare(
    "Mean absolute first derivative: total variation. For organs that slide past each other."
)
def tv(velocity: Tensor, spacing: Sequence[float], voxel_weight: Tensor | None = None) -> Tensor:
    """Compute the anisotropic total variation: the mean absolute first derivative.

    Over voxels, components and axes (Rudin et al. 1992, doi:10.1016/0167-2789(92)90242-F). Unlike `diffusion`
    it allows organs to slide past each other.
    """
    axes = range(2, velocity.ndim)
    slopes = [difference(velocity, axis, spacing) for axis in axes]
    return torch.stack([average(slope.abs(), voxel_weight) for slope in slopes]).mean()


@Regularizer.declare(
    "Mean norm of the first derivatives: `tv`, but independent of the orientation of the axes."
)
def tv_isotropic(
    velocity: Tensor, spacing: Sequence[float], eps: Positive = 1e-6, voxel_weight: Tensor | None = None
) -> Tensor:
    """Compute the isotropic total variation: the mean Frobenius norm of Du.

    Rotations of axes and components don't change it (Vishnevskiy et al. 2017, doi:10.1109/TMI.2016.2610583).

    Args:
        eps: The norm is sqrt(|Du|^2 + eps^2) - eps, differentiable at 0.
    """

    def norm(gradient: Tensor) -> Tensor:
        square = gradient.square().sum(dim=(1, 2))
        return square / ((square + eps**2).sqrt() + eps)  # the same, without cancellation

    return average_over_simplices(velocity, spacing, norm, voxel_weight)


@Regularizer.declare("Mean squared second derivatives. For affine motion at no cost.")
def bending(velocity: Tensor, spacing: Sequence[float], voxel_weight: Tensor | None = None) -> Tensor:
    """Compute the bending energy: the sum of the squared second derivatives, mixed ones twice.

    Averaged over voxels and components (Rueckert et al. 1999, doi:10.1109/42.796284); affine fields have
    none. By compact three-point stencils, under which, unlike under differences of central differences, a
    checkerboard has a cost.
    """
    energy = velocity.new_zeros(())
    for first in range(2, velocity.ndim):
        slope = difference(velocity, first, spacing)
        for second in range(first, velocity.ndim):
            curvature = difference(slope, second, spacing)
            energy = energy + (1 if first == second else 2) * average(curvature.square(), voxel_weight)
    return energy


@Regularizer.declare("Linear elastic energy. For rotations at no cost.")
def elastic(
    velocity: Tensor,
    spacing: Sequence[float],
    mu: float = 1.0,
    lam: float = 0.0,
    voxel_weight: Tensor | None = None,
) -> Tensor:
    """Compute the linear elastic energy, the mean of mu E:E + lam/2 (tr E)^2 with E = (Du + Du^T) / 2.

    Infinitesimal rotations have none; u = a x gives mu d a^2 + lam/2 d^2 a^2 (Bajcsy and Kovačič 1989,
    doi:10.1016/S0734-189X(89)80014-3).

    Args:
        mu: Second Lamé constant.
        lam: First Lamé constant.
    """

    def energy(gradient: Tensor) -> Tensor:
        strain = (gradient + gradient.transpose(1, 2)) / 2
        trace = strain.diagonal(dim1=1, dim2=2).sum(dim=-1)
        return mu * strain.square().sum(dim=(1, 2)) + lam / 2 * trace.square()

    return average_over_simplices(velocity, spacing, energy, voxel_weight)


@Regularizer.declare("Squared length of the velocity in the metric of LDDMM.")
def sobolev(
    velocity: Tensor, spacing: Sequence[float], alpha: float = 3.0, gamma: float = 1.0, power: float = 1.0
) -> Tensor:
    """Compute the squared length in the metric of LDDMM, mm^2.

    The mean over voxels of |(gamma - alpha Laplacian)^power v|^2 (Beg et al. 2005,
    doi:10.1023/B:VISI.0000043755.93987.aa). The cosine transform diagonalizes the Laplacian of three-point
    differences on a field mirrored at the borders of the image, which, unlike a periodic one, doesn't couple
    opposite borders. A slope across a border is a kink in the mirrored field, and has a cost.

    Args:
        alpha: mm^2; 0 gives `magnitude`.
        gamma: Weight of the velocity itself.
        power: Power of the operator.
    """
    gain = (gamma + alpha * laplacian_eigenvalues(velocity.shape[2:], spacing, velocity)) ** power
    return magnitude(gain * cosine_transform(velocity), spacing)


@Regularizer.declare("Mean squared length of the velocity. Against drift of the template.")
def magnitude(velocity: Tensor, spacing: Sequence[float], voxel_weight: Tensor | None = None) -> Tensor:
    """Compute the mean squared length, mm^2."""
    return average(velocity.square().sum(dim=1, keepdim=True), voxel_weight)
