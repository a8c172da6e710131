"""The kind of entry that PARAMETRIZATIONS holds, and the base of what it builds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from atlasmith.core.checkpointing import checkpoint
from atlasmith.core.choices import Choice
from atlasmith.core.fields import invert, per_channel
from atlasmith.core.sampling import resize

# The directions of a map: from the fixed grid to the moving image, and back.
FORWARD, INVERSE = 1, -1
DIRECTIONS = (FORWARD, INVERSE)

FIT_STEPS, FIT_RATE = 20, 0.7


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

    def resize(self, coefficients: Tensor, shape: Sequence[int], spacing: Sequence[float]) -> Tensor:
        """Resize coefficients to a grid of another size with the same corners, in voxels of that grid.

        Args:
            coefficients: (B, channels, *old), in voxels of their grid.
            shape: Size (d) of the other grid.
            spacing: Size (d) of the voxels of the coefficients' grid, mm.

        Returns:
            Coefficients (B, channels, *shape) of the same deformation, as nearly as they can be.
        """
        old = coefficients.shape[2:]
        if tuple(old) == tuple(shape):
            return coefficients
        ratios = [(n - 1) / max(m - 1, 1) for n, m in zip(shape, old, strict=True)]
        return self.rescale(resize(coefficients, shape), ratios)

    def rescale(self, coefficients: Tensor, ratios: Sequence[float]) -> Tensor:
        """Convert coefficients (B, channels, *shape) to voxels of another size.

        Args:
            coefficients: Vectors in voxels, their components one after the other.
            ratios: Size (d) of these voxels, in those of the result.
        """
        ratios = [*ratios] * (coefficients.shape[1] // len(ratios))
        return coefficients * per_channel(ratios, coefficients)

    def fit(self, displacement: Tensor, spacing: Sequence[float]) -> Tensor:
        """Find coefficients of a displacement (B, d, *shape), voxels, by corrections of what remains.

        For each image those of the smallest mean square that remains: corrections of large displacements need
        not converge.
        """
        coefficients = best = self.lift(displacement, spacing)
        lowest = displacement.new_full((len(displacement), *[1] * (displacement.ndim - 1)), torch.inf)
        for _ in range(FIT_STEPS):
            rest = displacement - self.maps(coefficients, spacing, [FORWARD])[FORWARD]
            error = rest.square().mean(dim=tuple(range(1, rest.ndim)), keepdim=True)
            best = torch.where(error < lowest, coefficients, best)
            lowest = torch.minimum(error, lowest)
            coefficients = coefficients + FIT_RATE * self.lift(rest, spacing)
        return best


def with_inverse(forward: Tensor, directions: Sequence[int], save_memory: bool = False) -> dict[int, Tensor]:
    """Give the directions of a map whose inverse has no closed form: that one by fixed-point iteration.

    Args:
        forward: Displacement (B, d, *shape), voxels.
        directions: Which of FORWARD and INVERSE to return.
        save_memory: As in `DeformationModel.maps`.

    Returns:
        For each direction its displacement (B, d, *shape), voxels.
    """

    def inverse() -> Tensor:
        return checkpoint(invert, forward) if save_memory else invert(forward)

    return {direction: forward if direction == FORWARD else inverse() for direction in directions}


@dataclass(frozen=True)
class Parametrization(Choice[DeformationModel]):
    """Declare a parametrization: a `DeformationModel`, built from `integration_steps` and its settings.

    Args:
        function: As in `Choice`.
        text: As in `Choice`.
        diffeomorphic: Whether the maps are diffeomorphisms, each other's inverse.
    """

    diffeomorphic: bool
