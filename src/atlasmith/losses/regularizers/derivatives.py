"""First derivatives of fields, by differences and on the simplices of each cell of the grid."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from atlasmith.core.fields import determinant
from atlasmith.losses.regularizers.base import average

Vertex = tuple[int, ...]


def difference(field: Tensor, axis: int, spacing: Sequence[float]) -> Tensor:
    """Return the forward difference along tensor axis `axis` (>= 2), per mm."""
    return field.diff(dim=axis) / spacing[axis - 2]


def outer_sum(axes: Sequence[Tensor]) -> Tensor:
    """Return the sum (n0, n1, ...) of one value for each axis and index, from vectors (n0), (n1), ..."""
    return torch.stack(torch.meshgrid(*axes, indexing="ij")).sum(dim=0)


def _simplices(ndim: int) -> Iterator[list[Vertex]]:
    """The simplices, as vertices of the unit cell, of which Liu et al. 2024 (doi:10.1007/s11263-024-02047-1)
    measure the volume: one at each corner, and in 3-D two central tetrahedra. They fill the cell twice."""
    cell = list(itertools.product((0, 1), repeat=ndim))
    for corner in cell:
        yield [corner, *(v for v in cell if math.dist(v, corner) == 1)]
    if ndim == 3:
        for parity in (0, 1):
            yield [v for v in cell if sum(v) % 2 == parity]


def _gradients(field: Tensor, spacing: Sequence[float]) -> Iterator[tuple[float, Tensor]]:
    """For each simplex its fraction of the volume of all, and Du (B, component, axis, *(shape - 1)), per mm,
    of the field that is linear on it."""

    def at(vertex: Vertex) -> Tensor:
        values = field
        for axis, start in enumerate(vertex, start=2):
            values = values.narrow(axis, start, field.shape[axis] - 1)
        return values

    simplices = list(_simplices(len(spacing)))
    edges = np.array([np.subtract(others, first) for first, *others in simplices])  # (simplex, edge, axis)
    volumes = np.abs(np.linalg.det(edges))
    fractions = (volumes / volumes.sum()).tolist()
    # Du = sum over edges of (rise along the edge) x (that edge's column of the inverse).
    inverses = np.linalg.inv(edges * np.array(spacing)).tolist()  # (simplex, axis, edge)
    for (first, *others), fraction, inverse in zip(simplices, fractions, inverses, strict=True):
        rises = [at(vertex) - at(first) for vertex in others]
        columns = [
            sum((w * rise for w, rise in zip(row, rises, strict=True) if w), start=field.new_zeros(()))
            for row in inverse
        ]
        yield fraction, torch.stack(columns, dim=2)


def average_over_simplices(
    field: Tensor,
    spacing: Sequence[float],
    density: Callable[[Tensor], Tensor],
    voxel_weight: Tensor | None,
) -> Tensor:
    """Average a function of Du over the image, for the field that is linear on each simplex.

    All derivatives on a simplex belong to the same point, so that rotations differ from shears, and
    checkerboards have derivatives, which central differences and the mean gradient of a cell miss.

    Args:
        field: u (B, d, *shape), mm.
        spacing: Size of the voxels (d), mm.
        density: From Du (B, component, axis, *cells) to values (B, *cells).
        voxel_weight: As in `average`.

    Returns:
        A scalar.
    """
    parts = (fraction * density(gradient) for fraction, gradient in _gradients(field, spacing))
    return average(functools.reduce(torch.add, parts).unsqueeze(1), voxel_weight)


def determinant_of_map(gradient: Tensor) -> Tensor:
    """Return det(I + Du) (B, *cells) of Du (B, component, axis, *cells)."""
    ndim = gradient.shape[1]
    identity = torch.eye(ndim, device=gradient.device, dtype=gradient.dtype)
    return determinant((gradient + identity.view(1, ndim, ndim, *[1] * ndim)).unbind(dim=1))
