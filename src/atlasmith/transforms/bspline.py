"""Cubic B-splines on uniform or non-uniform control points, as velocities and as displacements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from atlasmith.core.bsplines import basis_matrix, uniform_knots
from atlasmith.core.choices import Positive
from atlasmith.transforms.displacement import Displacement
from atlasmith.transforms.parametrization import Parametrization
from atlasmith.transforms.separable import SeparableSpace, relative_spacing
from atlasmith.transforms.stationary import StationaryVelocity

RIDGE = 1e-10  # of the least squares: control points that no voxel determines stay at zero


@dataclass(frozen=True)
class BSplines(SeparableSpace):
    """Project coefficients onto cubic B-splines, by least squares.

    With a `border_ratio` the knots are non-uniform, moved by a cubic function of the distance from the center
    along their axis (Su and Yang 2023, "Nonuniformly spaced control points based on variational cardiac image
    registration", MICCAI; there their positions are learned).

    Args:
        integration_steps: As in `DeformationModel`.
        control_points: Distance of the control points, in voxels of the coefficients' grid along its finest
            axis, and the same in mm along the others; where it is at most a voxel nothing is left out.
            Non-uniform ones have it on average.
        border_ratio: Distance of the control points at the border over that at the center; 1: uniform.
    """

    control_points: Positive = 4.0
    border_ratio: Positive = 1.0

    def projections(self, shape: Sequence[int], spacing: Sequence[float], like: Tensor) -> list[Tensor]:
        """Return the projections onto the B-splines of each axis: see `SeparableSpace`."""
        sizes = zip(shape, relative_spacing(spacing), strict=True)
        return [self._projection(n, self.control_points / size, like) for n, size in sizes]

    def _projection(self, n: int, distance: float, like: Tensor) -> Tensor:
        if distance <= 1:
            return torch.eye(n, device=like.device, dtype=like.dtype)
        knots = knots_by_ratio(n, distance, self.border_ratio, like)
        basis = basis_matrix(n, knots, knots)
        ridge = RIDGE * torch.eye(basis.shape[1], device=basis.device, dtype=basis.dtype)
        # Without a check of errors, for which a GPU would wait.
        solution, _ = torch.linalg.solve_ex(basis.T @ basis + ridge, basis.T)
        return (basis @ solution).to(like.dtype)


def knots_by_ratio(n: int, distance: float, border_ratio: float, like: Tensor) -> Tensor:
    """Return knots that are `border_ratio` times as far from each other at the border as at the center.

    Args:
        n: Size of the grid along the axis.
        distance: Mean distance of the knots, voxels.
        border_ratio: Above 0; 1 gives `uniform_knots`.
        like: Gives the device.

    Returns:
        Knots in voxels, in double precision.

    Example:
        >>> (knots_by_ratio(9, 2.0, 4.0, torch.zeros(())) - 4).round(decimals=2)
        tensor([-4.0000, -1.2500,  0.0000,  1.2500,  4.0000], dtype=torch.float64)
    """
    knots, center, bend = uniform_knots(n, distance, like), (n - 1) / 2, (border_ratio - 1) / 3
    half = distance * (len(knots) - 1) / 2
    position = (knots - center) / half
    return center + half * (position + bend * position**3) / (1 + bend)


@dataclass(frozen=True)
class BSplineVelocity(BSplines, StationaryVelocity):
    """Integrate a stationary velocity made of cubic B-splines.

    (Modat et al. 2012, "Parametric non-rigid registration using a stationary velocity field", MMBIA; by
    networks, as the B-splines of TransMorph, Chen et al. 2022, arXiv:2111.10480.)
    """


@dataclass(frozen=True)
class BSplineDisplacement(BSplines, Displacement):
    """Take cubic B-splines as the displacement: free-form deformation.

    (Rueckert et al. 1999, doi:10.1109/42.796284; by networks, de Vos et al. 2017, arXiv:1704.06065, and 2019,
    arXiv:1809.06130.)
    """


bspline_velocity = Parametrization(
    BSplineVelocity,
    "A stationary velocity of cubic B-splines, on uniform or non-uniform control points. For smooth "
    "deformations under a weak regularizer.",
    diffeomorphic=True,
)
bspline_displacement = Parametrization(
    BSplineDisplacement,
    "A displacement of cubic B-splines: free-form deformation, as in DIRNet and DLIR. To be regularized by "
    "`folding`.",
    diffeomorphic=False,
)
