"""Stationary velocity fields as a parametrization of diffeomorphisms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from atlasmith.core.fields import exponentiate
from atlasmith.transforms.parametrization import DIRECTIONS, Parametrization


@dataclass(frozen=True)
class Velocity:
    """Stationary velocities, or a Gaussian posterior of them (Dalca et al. 2019,
    doi:10.1016/j.media.2019.07.006).

    Args:
        mean: The velocities, or the posterior's mean, (B, d, *shape), in voxels of their grid.
        log_variance: Logarithm of the posterior's variance (B, d, *shape), squared voxels.
        noise: Standard normal noise (B, d, *shape), by which a velocity is sampled from the posterior.
    """

    mean: Tensor
    log_variance: Tensor | None = None
    noise: Tensor | None = None

    @property
    def sampled(self) -> Tensor:
        """The velocities (B, d, *shape) sampled with the noise; without noise, the mean."""
        if self.log_variance is None or self.noise is None:
            return self.mean
        return self.mean + (self.log_variance / 2).exp() * self.noise


@Parametrization.declare(
    "The exponential of a stationary velocity field, whose inverse is that of its negative. The default.",
    diffeomorphic=True,
)
def stationary_velocity(
    velocity: Tensor,
    integration_steps: int = 6,
    save_memory: bool = False,
    directions: Sequence[int] = DIRECTIONS,
) -> dict[int, Tensor]:
    """Integrate stationary velocities forward, and their negatives for the inverse.

    Args:
        velocity: (B, d, *shape), in voxels of its grid.
        integration_steps: As in `exponentiate`.
        save_memory: As in `exponentiate`.
        directions: Which of FORWARD and INVERSE to compute.

    Returns:
        For each direction, its displacement (B, d, *shape), voxels.

    Example:
        >>> from atlasmith.transforms import FORWARD, INVERSE
        >>> maps = stationary_velocity(torch.full((1, 2, 8, 8), 0.5))
        >>> maps[FORWARD][0, 0, 4, 4], maps[INVERSE][0, 0, 4, 4]
        (tensor(0.5000), tensor(-0.5000))
    """
    signed = torch.cat([direction * velocity for direction in directions])
    displacements = exponentiate(signed, integration_steps, save_memory)
    return dict(zip(directions, displacements.chunk(len(directions)), strict=True))
