"""Deformations in a space with fewer dimensions than voxels, spanned by products of functions of one axis."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from atlasmith.core.bsplines import spread
from atlasmith.transforms.parametrization import DeformationModel


@dataclass(frozen=True)
class SeparableSpace(DeformationModel):
    """Project coefficients (B, d, *shape) onto a space of fields, by one matrix for each axis.

    A model derives from this class first, then from the one that makes maps of the projection, such as
    `StationaryVelocity`.
    """

    @abstractmethod
    def projections(self, shape: Sequence[int], spacing: Sequence[float], like: Tensor) -> list[Tensor]:
        """Return the projection (n, n) along each axis.

        Args:
            shape: Size (d) of the coefficients' grid.
            spacing: Size (d) of its voxels, mm.
            like: Gives device and type.
        """

    def tangent(self, coefficients: Tensor, spacing: Sequence[float]) -> Tensor:
        """Return the projection (B, d, *shape) of the coefficients."""
        with torch.autocast(coefficients.device.type, enabled=False):
            return spread(coefficients, self.projections(coefficients.shape[2:], spacing, coefficients))

    def lift(self, velocity: Tensor, spacing: Sequence[float]) -> Tensor:
        """Return the projection (B, d, *shape) of a velocity."""
        return self.tangent(velocity, spacing)

    def resize(self, coefficients: Tensor, shape: Sequence[int], spacing: Sequence[float]) -> Tensor:
        """Resize the projection, since what it leaves out may lie in the space of another grid."""
        return super().resize(self.tangent(coefficients, spacing), shape, spacing)


def relative_spacing(spacing: Sequence[float]) -> list[float]:
    """Return the size of voxels (d) along each axis, relative to the smallest."""
    return [size / min(spacing) for size in spacing]
