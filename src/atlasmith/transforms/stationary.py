"""Stationary velocity fields as a parametrization of diffeomorphisms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from atlasmith.core.fields import compose_velocities, exponentiate
from atlasmith.transforms.parametrization import DIRECTIONS, DeformationModel, Parametrization


def integrate_velocity(
    velocity: Tensor,
    integration_steps: int,
    directions: Sequence[int] = DIRECTIONS,
    save_memory: bool = False,
) -> dict[int, Tensor]:
    """Integrate stationary velocities forward, and their negatives for the inverse.

    Args:
        velocity: (B, d, *shape), in voxels of its grid.
        integration_steps: As in `exponentiate`.
        directions: Which of FORWARD and INVERSE to compute.
        save_memory: As in `exponentiate`.

    Returns:
        For each direction, its displacement (B, d, *shape), voxels.

    Example:
        >>> from atlasmith.transforms import FORWARD, INVERSE
        >>> maps = integrate_velocity(torch.full((1, 2, 8, 8), 0.5), 6)
        >>> maps[FORWARD][0, 0, 4, 4], maps[INVERSE][0, 0, 4, 4]
        (tensor(0.5000), tensor(-0.5000))
    """
    signed = torch.cat([direction * velocity for direction in directions])
    displacements = exponentiate(signed, integration_steps, save_memory)
    return dict(zip(directions, displacements.chunk(len(directions)), strict=True))


@dataclass(frozen=True)
class StationaryVelocity(DeformationModel):
    """Integrate a stationary velocity by scaling and squaring.

    (Arsigny et al. 2006, doi:10.1007/11866565_113.) Coefficients are the velocity (B, d, *shape). Those of a
    composition are the first terms of the Baker-Campbell-Hausdorff formula.
    """

    def maps(
        self,
        coefficients: Tensor,
        spacing: Sequence[float],
        directions: Sequence[int] = DIRECTIONS,
        save_memory: bool = False,
    ) -> dict[int, Tensor]:
        """Compute the exponentials of velocities (B, d, *shape) and of their negatives."""
        velocity = self.tangent(coefficients, spacing)
        return integrate_velocity(velocity, self.integration_steps, directions, save_memory)

    def compose(self, outer: Tensor, inner: Tensor, spacing: Sequence[float]) -> Tensor:
        """Return the velocity (B, d, *shape) of outer after inner: see `compose_velocities`."""
        velocities = self.tangent(outer, spacing), self.tangent(inner, spacing)
        return self.lift(compose_velocities(*velocities), spacing)


stationary_velocity = Parametrization(
    StationaryVelocity,
    "The exponential of a stationary velocity field, whose inverse is that of its negative. The default.",
    diffeomorphic=True,
)
