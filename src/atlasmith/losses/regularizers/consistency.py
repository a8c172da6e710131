"""Regularizers of two maps that should be each other's inverse."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from atlasmith.core.fields import compose, per_channel
from atlasmith.core.sampling import warp
from atlasmith.losses.regularizers.base import Regularizer, average
from atlasmith.losses.regularizers.smoothness import diffusion, magnitude


def _compose_mm(outer: Tensor, inner: Tensor, spacing: Sequence[float]) -> Tensor:
    """Displacement (B, d, *shape) of x -> outer(inner(x)), all in mm."""
    size = per_channel(spacing, inner)
    return compose(outer / size, inner / size) * size


def _both_orders(forward: Tensor, inverse: Tensor, spacing: Sequence[float]) -> Tensor:
    """Displacements (B, 2 d, *shape), mm, of the compositions of both maps in either order."""
    orders = ((inverse, forward), (forward, inverse))
    return torch.cat([_compose_mm(outer, inner, spacing) for outer, inner in orders], dim=1)


@Regularizer.declare("Squared inverse error. For maps without a velocity.", needs=("forward", "inverse"))
def inverse_consistency(
    forward: Tensor, inverse: Tensor, spacing: Sequence[float], voxel_weight: Tensor | None = None
) -> Tensor:
    """Compute the mean squared distance, mm^2, between x and its image under both maps, over both orders.

    (Christensen and Johnson 2001, doi:10.1109/42.932742; Greer et al. 2021, arXiv:2105.04459.)
    """
    return magnitude(_both_orders(forward, inverse, spacing), spacing, voxel_weight) / 2


@Regularizer.declare("As `inverse_consistency`, of derivatives: weaker.", needs=("forward", "inverse"))
def gradicon(
    forward: Tensor, inverse: Tensor, spacing: Sequence[float], voxel_weight: Tensor | None = None
) -> Tensor:
    """Compute the mean squared Frobenius norm of D(phi o psi) - I for the maps phi and psi, over both orders.

    By forward differences (Tian et al. 2022, arXiv:2206.05897). Translations have no cost.
    """
    entries = len(spacing) ** 2
    return entries * diffusion(_both_orders(forward, inverse, spacing), spacing, voxel_weight)


@Regularizer.declare(
    "As `inverse_consistency`, measured in the fixed image.", needs=("fixed", "forward", "inverse")
)
def cycle(
    fixed: Tensor,
    forward: Tensor,
    inverse: Tensor,
    spacing: Sequence[float],
    voxel_weight: Tensor | None = None,
) -> Tensor:
    """Compute the mean |A - A o phi o psi| of the fixed image A and the maps phi and psi.

    phi is `forward`, psi is `inverse`; the mean is over the voxels that return to inside the image (Kim et
    al. 2021, doi:10.1016/j.media.2021.102036). A is interpolated once, at phi(psi(x)), so that blur doesn't
    count as error.
    """
    there_and_back = _compose_mm(forward, inverse, spacing) / per_channel(spacing, forward)
    back, coverage = warp(torch.cat([fixed, torch.ones_like(fixed)], dim=1), there_and_back).chunk(2, dim=1)
    inside = (coverage > 0.999).to(fixed.dtype)
    fraction = inside.mean(dim=tuple(range(1, inside.ndim)), keepdim=True).clamp(min=1 / inside[0].numel())
    return average((fixed - back).abs() * inside / fraction, voxel_weight)
