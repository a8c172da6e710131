"""Band-limited velocities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from atlasmith.core.choices import Positive
from atlasmith.core.cosines import cosines
from atlasmith.transforms.parametrization import Parametrization
from atlasmith.transforms.separable import SeparableSpace, relative_spacing
from atlasmith.transforms.stationary import StationaryVelocity


@dataclass(frozen=True)
class FourierVelocity(SeparableSpace, StationaryVelocity):
    """Integrate a stationary velocity of low frequencies.

    As the velocities of DeepFLASH (Wang and Zhang 2020, arXiv:2004.02097), with two differences: these are
    stationary, and the modes are cosines, those of a discrete Fourier transform of the image and its mirror
    images, so that opposite borders don't influence each other.

    Args:
        integration_steps: As in `DeformationModel`.
        band: Highest frequency, as a share of the highest that the grid's finest axis has, and the same per
            mm along the others; 1: all. DeepFLASH's 16 of 128 modes are 0.25 at half of the images'
            resolution.
    """

    band: Positive = 0.25

    def projections(self, shape: Sequence[int], spacing: Sequence[float], like: Tensor) -> list[Tensor]:
        """Return the projections onto the modes of each axis: see `SeparableSpace`."""
        sizes = zip(shape, relative_spacing(spacing), strict=True)
        bases = [cosines(n, min(math.ceil(self.band * size * n), n), like) for n, size in sizes]
        return [basis @ basis.T for basis in bases]


fourier_velocity = Parametrization(
    FourierVelocity,
    "A stationary velocity of low frequencies, as in DeepFLASH. For smooth deformations of whole organs.",
    diffeomorphic=True,
)
