"""The deformation between a fixed grid and an image: transforms, Jacobian and metrics.

The stage and `register` share what is here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from atlasmith.core.fields import jacobian_determinant, resize_displacement, to_mm
from atlasmith.core.grid import Array, Grid, Step
from atlasmith.core.sampling import warp
from atlasmith.core.world import displacement_to_field, resample
from atlasmith.io.images import Image
from atlasmith.transforms import FORWARD, INVERSE, DeformationModel

OBJECT_LEVEL = 0.1  # of the fixed image's 99th percentile, above which a voxel belongs to the object


def displacements(deformation: DeformationModel, coefficients: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Compute both displacements (B, d, *half), in their own voxels, of coefficients (B, channels, *half)."""
    maps = deformation.maps(coefficients, grid.coarser_spacing(coefficients.shape[2:]))
    return maps[FORWARD], maps[INVERSE]


def quantile(values: Tensor, fraction: float) -> Tensor:
    """Compute a quantile of any number of values, linear between neighbors in rank, as `numpy.quantile`.

    `torch.quantile` refuses more than 2^24.

    Args:
        values: Of any shape.
        fraction: 0 to 1.

    Returns:
        A scalar.

    Example:
        >>> quantile(torch.tensor([4.0, 1.0, 2.0]), 0.75)
        tensor(3.)
    """
    flat = values.flatten()
    rank = fraction * (len(flat) - 1)
    above = flat.topk(len(flat) - math.floor(rank), sorted=False).values  # selects, unlike a sort
    neighbors = above.topk(min(2, len(above)), largest=False).values
    return torch.lerp(neighbors[0], neighbors[-1], rank - math.floor(rank))


@dataclass(frozen=True, eq=False)
class Deformation:
    """An affine and a deformation, in both directions, between a fixed grid and an image.

    What follows from the displacements is computed on their device. They are linear between their voxels:
    on a grid of half the resolution they are the same maps as resized to the fixed grid, in an eighth of the
    bytes.

    Args:
        forward: Displacement (1, d, *size) from the fixed grid to the affinely aligned image, in voxels of
            its own grid, which has the same corner voxels as `grid`.
        inverse: Displacement (1, d, *size) from the affinely aligned image to the fixed grid, likewise.
        affine: Pull-back (4, 4) from the fixed world to that of the image, RAS mm.
        grid: The fixed grid.
    """

    forward: Tensor
    inverse: Tensor
    affine: Array
    grid: Grid

    @cached_property
    def forward_steps(self) -> list[Step]:
        """The pull-back that resamples the image onto the fixed grid."""
        return [self._field(self.forward), self.affine]

    @cached_property
    def inverse_steps(self) -> list[Step]:
        """The pull-back that resamples images on the fixed grid onto that of the image."""
        return [np.linalg.inv(self.affine), self._field(self.inverse)]

    @cached_property
    def on_grid(self) -> Deformation:
        """The same deformation with displacements on the fixed grid."""
        shape = self.grid.tensor_shape
        forward, inverse = (resize_displacement(x, shape) for x in (self.forward, self.inverse))
        return Deformation(forward, inverse, self.affine, self.grid)

    def _field(self, displacement: Tensor) -> Step:
        shape: Sequence[int] = displacement.shape[2:]
        if 1 in shape:  # of a slab of two voxels: a grid of one has no direction there
            shape = self.grid.tensor_shape
        return displacement_to_field(resize_displacement(displacement, shape)[0], self.grid.resized(shape))

    def warp(self, image: Image) -> Array:
        """Resample an image in its native space onto the fixed grid (X, Y, Z), interpolated once."""
        data = torch.from_numpy(image.grid.squeeze(image.data))[None, None].to(self.forward.device).float()
        warped = resample(data, image.grid, self.forward_steps, self.grid)
        return self.grid.unsqueeze(warped[0, 0].cpu().numpy())

    @cached_property
    def _determinant(self) -> Tensor:
        return jacobian_determinant(self.on_grid.forward)

    @property
    def log_jacobian(self) -> Array:
        """Logarithm of the Jacobian determinant of the forward displacement, (X, Y, Z) on the fixed grid."""
        return self.grid.unsqueeze(self._log_determinant[0].cpu().numpy())

    @property
    def _log_determinant(self) -> Tensor:
        return self._determinant.clamp(min=1e-6).log()

    def metrics(self, fixed: Tensor) -> list[tuple[str, float, str]]:
        """Measure folding, local volume change, inverse consistency and length of the deformation.

        Args:
            fixed: Intensities (1, 1, *shape) of the fixed image; all metrics but folding are of its object.

        Returns:
            Name, value and unit of each metric.
        """
        spacing = self.grid.tensor_spacing
        inside = fixed[:, 0] > OBJECT_LEVEL * quantile(fixed, 0.99)
        forward, inverse = self.on_grid.forward, self.on_grid.inverse
        round_trip = inverse + warp(forward, inverse, padding="border")
        values = {
            ("nonpositive_jacobian_percent", "%"): 100 * (self._determinant <= 0).float().mean(),
            ("sd_log_jacobian", "1"): self._log_determinant[inside].std(),
            ("inverse_consistency_mm", "mm"): to_mm(round_trip, spacing).norm(dim=1)[inside].mean(),
            ("displacement_mm", "mm"): to_mm(forward, spacing).norm(dim=1)[inside].mean(),
        }
        numbers = torch.stack(list(values.values())).tolist()
        return [(name, number, unit) for (name, unit), number in zip(values, numbers, strict=True)]
