"""The kind of entry that PARAMETRIZATIONS holds, and the base of what it builds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from atlasmith.core.choices import Choice
from atlasmith.core.fields import invert, resize_displacement

# The directions of a map: from the fixed grid to the moving image, and back.
FORWARD, INVERSE = 1, -1
DIRECTIONS = (FORWARD, INVERSE)

FIT_STEPS = 20


@dataclass(frozen=True)
class DeformationModel(ABC):
    """Make deformations of coefficients (B, channels, *shape).

    The coefficients lie on a grid, as a rule that of half the images' resolution, and are in its voxels. Zero
    is the identity, but where `initial` says otherwise. A model whose deformations have fewer degrees of
    freedom, such as splines, projects the coefficients onto what it can represent, so that coefficients of
    all models are averaged, resized and optimized alike.

    Args:
        integration_steps: Squarings of an exponential; a model with time steps of its own may ignore it.
    """

    integration_steps: int

    def channels(self, ndim: int) -> int:
        """Return the number of channels of the coefficients in `ndim` dimensions."""
        return ndim

    @abstractmethod
    def maps(
        self,
        coefficients: Tensor,
        spacing: Sequence[float],
        directions: Sequence[int] = DIRECTIONS,
        save_memory: bool = False,
    ) -> dict[int, Tensor]:
        """Compute the displacements of coefficients.

        Args:
            coefficients: (B, channels, *shape), in voxels of their grid.
            spacing: Size (d) of these voxels, mm.
            directions: Which of FORWARD and INVERSE to compute.
            save_memory: Compute intermediate results again for the gradient, instead of keeping them.

        Returns:
            For each direction its displacement (B, d, *shape), voxels.
        """

    def tangent(self, coefficients: Tensor, spacing: Sequence[float]) -> Tensor:
        """Return the velocity (B, d, *shape) at the identity: linear in the coefficients, to first order the
        displacement. Arguments as in `maps`."""
        return coefficients

    def lift(self, velocity: Tensor, spacing: Sequence[float]) -> Tensor:
        """Return coefficients (B, channels, *shape) whose tangent is, as nearly as the model can, a velocity
        (B, d, *shape)."""
        return velocity

    def regularized(self, coefficients: Tensor, spacing: Sequence[float]) -> Tensor:
        """Return the fields that regularizers of a velocity act on: (B * n, d, *shape), n for each image.
        Arguments as in `maps`."""
        return self.tangent(coefficients, spacing)

    def initial(self, fixed: Tensor, shape: Sequence[int]) -> Tensor:
        """Return the coefficients (B, channels, *shape) of the identity for fixed images (B, C, *size)."""
        return fixed.new_zeros(len(fixed), self.channels(len(shape)), *shape)

    def compose(self, outer: Tensor, inner: Tensor, spacing: Sequence[float]) -> Tensor:
        """Return the coefficients of outer after inner, at least to first order. Arguments as in `maps`."""
        return outer + inner

    def resize(self, coefficients: Tensor, shape: Sequence[int]) -> Tensor:
        """Resize coefficients to a grid of another size with the same corners, in voxels of that grid."""
        ndim = len(shape)
        fields = coefficients.unflatten(1, (-1, ndim)).flatten(0, 1)
        return resize_displacement(fields, shape).unflatten(0, (len(coefficients), -1)).flatten(1, 2)

    def fit(self, displacement: Tensor, spacing: Sequence[float]) -> Tensor:
        """Find coefficients of a displacement (B, d, *shape), voxels, by corrections of what remains."""
        coefficients = self.lift(displacement, spacing)
        for _ in range(FIT_STEPS):
            found = self.maps(coefficients, spacing, [FORWARD])[FORWARD]
            coefficients = coefficients + self.lift(displacement - found, spacing)
        return coefficients


def with_inverse(forward: Tensor, directions: Sequence[int]) -> dict[int, Tensor]:
    """Give the directions of a map whose inverse has no closed form: that one by fixed-point iteration.

    Args:
        forward: Displacement (B, d, *shape), voxels.
        directions: Which of FORWARD and INVERSE to return.

    Returns:
        For each direction its displacement (B, d, *shape), voxels.
    """
    return {direction: forward if direction == FORWARD else invert(forward) for direction in directions}


@dataclass(frozen=True)
class Parametrization(Choice[DeformationModel]):
    """Declare a parametrization: a `DeformationModel`, built from `integration_steps` and its settings.

    Args:
        function: As in `Choice`.
        text: As in `Choice`.
        diffeomorphic: Whether the maps are diffeomorphisms, each other's inverse.
    """

    diffeomorphic: bool
