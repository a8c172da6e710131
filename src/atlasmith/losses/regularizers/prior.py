"""Divergence of a velocity's posterior from a smooth prior."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from atlasmith.core.choices import Positive
from atlasmith.losses.regularizers.base import Regularizer
from atlasmith.losses.regularizers.derivatives import difference, outer_sum


@Regularizer.declare(
    "Divergence from a smooth prior. For velocities with an uncertainty.", needs=("velocity", "log_variance")
)
def kl(velocity: Tensor, log_variance: Tensor, spacing: Sequence[float], prior: Positive = 25.0) -> Tensor:
    """Compute the Kullback-Leibler divergence of the velocity's posterior from a smooth prior, per voxel.

    Up to a constant, so that it may be negative. The posterior is N(velocity, variance), the prior has zero
    mean and the precision `prior` times the grid's Laplacian, per mm (Dalca et al. 2019,
    doi:10.1016/j.media.2019.07.006).

    The sum over components of 1/2 (prior (degree variance + sum of squared differences) - log_variance); the
    degree counts a voxel's neighbors, fewer at the border, each as 1 / spacing^2. The authors' code weighs
    the differences 2 d times less, and so isn't the divergence of any two distributions.

    Args:
        prior: Precision of the prior.
    """
    degrees = []
    for n, size in zip(velocity.shape[2:], spacing, strict=True):
        neighbors = velocity.new_full((n,), 2.0)
        neighbors[0] -= 1
        neighbors[-1] -= 1
        degrees.append(neighbors / size**2)
    spread = (prior * outer_sum(degrees) * log_variance.exp() - log_variance).sum(dim=1).mean()
    axes = range(2, velocity.ndim)
    roughness = torch.stack([difference(velocity, axis, spacing).square().sum() for axis in axes]).sum()
    return (spread + prior * roughness / velocity[:, 0].numel()) / 2
