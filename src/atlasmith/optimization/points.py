"""Corresponding points and surfaces as terms of the objective."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from atlasmith.core.chunks import at_once
from atlasmith.core.fields import per_channel, to_mm
from atlasmith.core.sampling import sample
from atlasmith.transforms import FORWARD


@dataclass(frozen=True, eq=False)
class PointSets:
    """Points of the fixed and of the moving images that the deformation should map onto each other.

    Landmarks, centerlines and surfaces are such points (van Harten et al. 2023, British Machine Vision
    Conference).

    Args:
        fixed: Voxel coordinates (B, N, d) on the objective's grid.
        moving: Those of points of the moving images, affinely aligned, on the same grid: (B, M, d).
        weight: Weight of the mean distance in mm.
        corresponding: Whether the i-th points of both correspond, so that N = M; else each point is compared
            to the nearest one of the other set, as vertices of surfaces are (Chamfer distance).
    """

    fixed: Tensor
    moving: Tensor
    weight: float
    corresponding: bool = True

    @property
    def name(self) -> str:
        """The name of the term."""
        return "points" if self.corresponding else "surfaces"

    def term(
        self, maps: Mapping[int, Tensor], spacing: Sequence[float], shape: Sequence[int], chosen: slice
    ) -> Tensor:
        """Compute the weighted mean distance of mapped points, over images and directions.

        Args:
            maps: For each direction its displacement (b, d, *half), voxels of a grid with the same corners.
            spacing: Size (d) of these voxels, mm.
            shape: Size (d) of the grid of the points.
            chosen: The images whose displacements these are.

        Returns:
            A scalar.
        """
        both = self.fixed[chosen], self.moving[chosen]
        distances = []
        for direction, displacement in maps.items():
            source, target = both if direction == FORWARD else both[::-1]
            half = displacement.shape[2:]
            ratios = [(m - 1) / max(n - 1, 1) for n, m in zip(shape, half, strict=True)]
            own, other = (x.mT * per_channel(ratios, x.mT) for x in (source, target))
            lines = own.unflatten(2, (*[1] * (len(half) - 1), -1))
            mapped = own + sample(displacement, lines, padding="border").flatten(2)
            first, second = (to_mm(x, spacing).mT for x in (mapped, other))
            distances.append(_mean_distance(first, second, self.corresponding))
        return self.weight * torch.stack(distances).mean()


def _mean_distance(first: Tensor, second: Tensor, corresponding: bool) -> Tensor:
    """Mean distance of points (B, N, d) and (B, M, d), those of the same index or the nearest ones."""
    if corresponding:
        return (first - second).norm(dim=2).mean()
    return (_to_nearest(first, second) + _to_nearest(second, first)) / 2


def _to_nearest(points: Tensor, others: Tensor) -> Tensor:
    """Mean distance of points (B, N, d) to the nearest of others (B, M, d)."""
    rows = max(at_once(points.device) // max(others.shape[1], 1), 1)
    with torch.no_grad():
        parts = [torch.cdist(part, others).argmin(dim=2) for part in points.split(rows, dim=1)]
    nearest = others.gather(1, torch.cat(parts, dim=1)[:, :, None].expand_as(points))
    return (points - nearest).norm(dim=2).mean()
