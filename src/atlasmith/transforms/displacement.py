"""Displacements as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from atlasmith.core.fields import compose
from atlasmith.transforms.parametrization import (
    DIRECTIONS,
    DeformationModel,
    Parametrization,
    with_inverse,
)


@dataclass(frozen=True)
class Displacement(DeformationModel):
    """Take coefficients (B, d, *shape) as the displacement."""

    def maps(
        self,
        coefficients: Tensor,
        spacing: Sequence[float],
        directions: Sequence[int] = DIRECTIONS,
        save_memory: bool = False,
    ) -> dict[int, Tensor]:
        """Return the displacement, and its inverse by fixed-point iteration."""
        return with_inverse(self.tangent(coefficients, spacing), directions, save_memory)

    def compose(self, outer: Tensor, inner: Tensor, spacing: Sequence[float]) -> Tensor:
        """Return the displacement (B, d, *shape) of outer after inner."""
        displacements = self.tangent(outer, spacing), self.tangent(inner, spacing)
        return self.lift(compose(*displacements), spacing)


displacement = Parametrization(
    Displacement,
    "The displacement itself, whose inverse is found by iteration. May fold; for comparison.",
    diffeomorphic=False,
)
