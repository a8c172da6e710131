"""Smoothness and size of a field (B, d, *shape) in mm, on voxels of `spacing` mm. Each returns a scalar."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def _difference(field: Tensor, axis: int, spacing: Sequence[float]) -> Tensor:
    """Forward difference along tensor axis `axis` (>= 2), per mm."""
    return field.diff(dim=axis) / spacing[axis - 2]


def diffusion(field: Tensor, spacing: Sequence[float]) -> Tensor:
    """Mean squared first derivative over voxels, components and axes (Balakrishnan et al. 2019,
    doi:10.1109/TMI.2019.2897538). u = 0.1 x in 3-D gives 0.01 / 9."""
    axes = range(2, field.ndim)
    return torch.stack([_difference(field, axis, spacing).square().mean() for axis in axes]).mean()


def bending(field: Tensor, spacing: Sequence[float]) -> Tensor:
    """Bending energy, per mm: sum of the squared second derivatives, mixed ones twice, averaged over voxels
    and components (Rueckert et al. 1999, doi:10.1109/42.796284). Zero for affine fields.

    Compact three-point stencils, so that a checkerboard costs, unlike under differences of differences of
    central type.
    """
    axes = range(2, field.ndim)
    energy = field.new_zeros(())
    for first in axes:
        slope = _difference(field, first, spacing)
        for second in range(first, field.ndim):
            energy = (
                energy + (1 if first == second else 2) * _difference(slope, second, spacing).square().mean()
            )
    return energy


def magnitude(field: Tensor, spacing: Sequence[float]) -> Tensor:
    """Mean squared length, mm^2."""
    return field.square().sum(dim=1).mean()


def centrality(field: Tensor, spacing: Sequence[float]) -> Tensor:
    """Squared length of the cohort's mean displacement, mm^2, estimated from a batch of its displacements:
    zero when the template lies at the barycentre of its subjects (the term of Dalca et al. 2019,
    arXiv:1908.02738).

    The mean over pairs of different subjects of <u_i, u_j>, whose expectation is the square of the mean; so a
    value may be negative. One subject alone counts as the mean.
    """
    count = len(field)
    if count == 1:
        return magnitude(field, spacing)
    total = field.sum(dim=0, keepdim=True).square() - field.square().sum(dim=0, keepdim=True)
    return total.sum(dim=1).mean() / (count * (count - 1))
