"""Velocities within the span of a few modes of variation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from atlasmith.core.fields import per_channel, resize_displacement
from atlasmith.transforms.stationary import StationaryVelocity

RIDGE = 1e-6  # of the modes' correlations, against modes without variance


@dataclass(frozen=True, eq=False)
class LowRankVelocity(StationaryVelocity):
    """Integrate a stationary velocity in the span of modes: a code of few numbers.

    As statistical deformation models (Rueckert, Frangi and Schnabel 2003, doi:10.1109/TMI.2003.815865, whose
    modes are those of B-spline coefficients). Coefficients (B, d, *shape) are projected onto the span, such
    that the mean square of what is left out, in mm, is smallest. The modes of `principal_modes` are
    deviations from a mean, which for the modes of a refined template is zero.

    Args:
        integration_steps: As in `exponentiate`.
        modes: (K, d, *grid), in voxels of their grid, with the corner voxels of the coefficients' grid.
    """

    modes: Tensor

    def scores(self, coefficients: Tensor, spacing: Sequence[float]) -> Tensor:
        """Return the code (B, K) of coefficients: how many times each mode they contain.

        For the modes of `principal_modes` these are numbers of standard deviations. Arguments as in `maps`.
        """
        modes = self._resized(coefficients)
        weights = per_channel([size**2 for size in spacing], coefficients)
        length = (weights * modes.square()).flatten(1).sum(dim=1).sqrt().clamp(min=1e-20)
        with torch.autocast(coefficients.device.type, enabled=False):
            unit = modes.flatten(1) / length[:, None]
            dual = (weights * modes).flatten(1) / length[:, None]
            correlations = unit @ dual.T + RIDGE * torch.eye(len(unit), device=unit.device, dtype=unit.dtype)
            # inv would let a GPU's host wait for whether it exists.
            inverse = torch.linalg.inv_ex(correlations).inverse
            return coefficients.flatten(1) @ dual.T @ inverse / length

    def tangent(self, coefficients: Tensor, spacing: Sequence[float]) -> Tensor:
        """Return the projection (B, d, *shape) onto the span of the modes."""
        scores = self.scores(coefficients, spacing)
        with torch.autocast(coefficients.device.type, enabled=False):
            return torch.tensordot(scores, self._resized(coefficients), dims=1)

    def lift(self, velocity: Tensor, spacing: Sequence[float]) -> Tensor:
        """Return the projection (B, d, *shape) of a velocity."""
        return self.tangent(velocity, spacing)

    def resize(self, coefficients: Tensor, shape: Sequence[int], spacing: Sequence[float]) -> Tensor:
        """Resize the projection, without what it leaves out."""
        return super().resize(self.tangent(coefficients, spacing), shape, spacing)

    def _resized(self, coefficients: Tensor) -> Tensor:
        """The modes (K, d, *shape) on the grid of coefficients, in its voxels."""
        return resize_displacement(self.modes.to(coefficients), coefficients.shape[2:])
