"""Continuous piecewise-affine velocities."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from atlasmith.core.bsplines import spread
from atlasmith.core.choices import Positive
from atlasmith.transforms.parametrization import Parametrization
from atlasmith.transforms.separable import relative_spacing
from atlasmith.transforms.stationary import StationaryVelocity


@dataclass(frozen=True)
class PiecewiseAffineVelocity(StationaryVelocity):
    """Integrate a stationary velocity that is affine in each simplex of a tessellation.

    (CPAB: Freifeld et al. 2017, doi:10.1109/TPAMI.2016.2646685; in networks, Detlefsen et al. 2018, "Deep
    diffeomorphic transformer networks", CVPR.) Boxes with corners at voxels are cut along a diagonal into 2
    triangles or 6 tetrahedra, at whose vertices the velocities are those of the multilinear functions that
    are nearest to the coefficients (B, d, *shape). The papers cut boxes into 4 or 5, and integrate within
    each simplex by the exponential of a matrix, to which scaling and squaring converges.

    Args:
        integration_steps: As in `DeformationModel`.
        cells: Size of the boxes, in voxels of the coefficients' grid along its finest axis, and the same in
            mm along the others, rounded to voxels.
    """

    cells: Positive = 6.0

    def tangent(self, coefficients: Tensor, spacing: Sequence[float]) -> Tensor:
        """Return the velocity (B, d, *shape)."""
        axes = self._axes(coefficients, spacing)
        with torch.autocast(coefficients.device.type, enabled=False):
            return interpolate(spread(coefficients, [axis.fitting for axis in axes]), axes)

    def lift(self, velocity: Tensor, spacing: Sequence[float]) -> Tensor:
        """Return coefficients whose velocity at the vertices is a velocity (B, d, *shape) there."""
        axes = self._axes(velocity, spacing)
        with torch.autocast(velocity.device.type, enabled=False):
            return spread(velocity, [axis.hats @ axis.vertices for axis in axes])

    def resize(self, coefficients: Tensor, shape: Sequence[int], spacing: Sequence[float]) -> Tensor:
        """Return coefficients of the resized velocity."""
        resized = super().resize(self.tangent(coefficients, spacing), shape, spacing)
        sizes = zip(spacing, coefficients.shape[2:], shape, strict=True)
        return self.lift(resized, [size * max(old - 1, 1) / max(n - 1, 1) for size, old, n in sizes])

    def _axes(self, like: Tensor, spacing: Sequence[float]) -> list[Axis]:
        sizes = zip(like.shape[2:], relative_spacing(spacing), strict=True)
        return [Axis.of(n, self.cells / size, like) for n, size in sizes]


@dataclass(frozen=True)
class Axis:
    """Vertices at k of the n voxels of an axis.

    Attributes:
        hats: (n, k), the piecewise linear functions that are 1 at one vertex and 0 at the others.
        fitting: (k, n), values at the vertices of the nearest piecewise linear function.
        vertices: (k, n), 1 where a voxel is a vertex.
        lower: (n, k), 1 where a vertex is the last one up to a voxel.
        upper: (n, k), 1 where a vertex is the one after that.
    """

    hats: Tensor
    fitting: Tensor
    vertices: Tensor
    lower: Tensor
    upper: Tensor

    @classmethod
    def of(cls, n: int, size: float, like: Tensor) -> Axis:
        """Put vertices on n voxels, about `size` voxels from each other; `like` gives device and type."""
        cells = min(max(round((n - 1) / size), 1), max(n - 1, 1))
        steps = torch.arange(-1, cells + 2 if n > 1 else 2, device=like.device, dtype=torch.float64)
        positions = (steps * max((n - 1) / cells, 1)).round()  # with one beyond each end
        before, at, after = positions[:-2], positions[1:-1], positions[2:]
        voxels = torch.arange(n, device=like.device, dtype=torch.float64)[:, None]
        hats = torch.minimum((voxels - before) / (at - before), (after - voxels) / (after - at)).clamp(min=0)
        fitting, _ = torch.linalg.solve_ex(hats.T @ hats, hats.T)
        lower = ((at <= voxels) & (voxels < after)).double()
        upper = torch.cat([torch.zeros_like(lower[:, :1]), lower[:, :-1]], dim=1)
        return cls(*(x.to(like.dtype) for x in (hats, fitting, (voxels == at).T, lower, upper)))


def interpolate(values: Tensor, axes: Sequence[Axis]) -> Tensor:
    """Interpolate values at vertices linearly in the simplices that each box is cut into by the diagonal from
    its first corner to its last.

    The weight of a corner is how much the smallest of the fractions along the axes where it is the upper
    one exceeds the largest of those along the others, if at all.

    Args:
        values: (B, C, *vertices).
        axes: For each axis, its vertices.

    Returns:
        (B, C, *shape).
    """
    fractions = torch.meshgrid(*[(axis.hats * axis.upper).sum(1) for axis in axes], indexing="ij")
    zero, one = torch.zeros_like(fractions[0]), torch.ones_like(fractions[0])
    total = None
    for corner in itertools.product((False, True), repeat=len(axes)):
        above, below = [one], [zero]
        for is_upper, fraction in zip(corner, fractions, strict=True):
            (above if is_upper else below).append(fraction)
        weight = (torch.stack(above).amin(0) - torch.stack(below).amax(0)).clamp(min=0)
        chosen = [axis.upper if is_upper else axis.lower for is_upper, axis in zip(corner, axes, strict=True)]
        term = weight * spread(values, chosen)
        total = term if total is None else total + term
    assert total is not None
    return total


cpab = Parametrization(
    PiecewiseAffineVelocity,
    "A velocity that is affine in each triangle or tetrahedron (CPAB). For few degrees of freedom; its "
    "deformations have kinks.",
    diffeomorphic=True,
)
