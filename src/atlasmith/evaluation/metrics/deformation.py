"""How well a transform behaves, and where it takes landmarks."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch

from atlasmith.core.fields import jacobian_determinant as determinant_of
from atlasmith.core.grid import Array, Step
from atlasmith.core.world import transform_points


def _mean_length(vectors: Array) -> float:
    """The mean length of vectors (N, d); NaN for none."""
    return float(np.linalg.norm(vectors, axis=1).mean()) if len(vectors) else np.nan


# Landmarks


def displacements_mm(steps: Sequence[Step], points: Array) -> Array:
    """Where `steps` take the world points (N, 3), less the points: (N, 3), RAS mm."""
    return transform_points(steps, torch.from_numpy(points)).numpy() - points


def inverse_consistency_mm(forward: Sequence[Step], inverse: Sequence[Step], points: Array) -> float:
    """The mean of |inverse(forward(p)) - p| over world points p (N, 3), RAS mm."""
    return _mean_length(displacements_mm([*forward, *inverse], points))


def tre_mm(mapped: Array, expected: Array) -> float:
    """The mean distance of mapped landmarks (N, d) from where they belong, both in mm; NaN for none.

    The target registration error (Fitzpatrick et al. 1998, doi:10.1109/42.736021).
    """
    return _mean_length(mapped - expected)


def tre_quantile_mm(mapped: Array, expected: Array, quantile: float = 0.7) -> float:
    """The distance within which the share `quantile` of mapped landmarks (N, d) is right; NaN for none.

    A few landmarks that are far off don't move it. The default is what the worst 30 % exceed, after
    Learn2Reg (Hering et al. 2023, doi:10.1109/TMI.2022.3213983).
    """
    lengths = np.linalg.norm(mapped - expected, axis=1)
    return float(np.quantile(lengths, quantile)) if lengths.size else np.nan


# Jacobians


def jacobian_determinant(displacement: Array) -> Array:
    """det D(id + u) (*shape) of a displacement (d, *shape), by central differences, one-sided at borders."""
    tensor = torch.from_numpy(displacement.astype(np.float64))
    return determinant_of(tensor[None])[0].numpy()


def nonpositive_jacobian_percent(determinant: Array, mask: Array) -> float:
    """The share of voxels in `mask` with a determinant of 0 or less; NaN for an empty mask."""
    return float(100 * np.mean(determinant[mask] <= 0)) if mask.any() else np.nan


def sd_log_jacobian(determinant: Array, mask: Array) -> float:
    """SD of the log determinant over the voxels in `mask` where it is positive; NaN if there is none."""
    values = determinant[mask & (determinant > 0)]
    return float(np.log(values).std()) if values.size else np.nan


def sd_log_jacobian_learn2reg(determinant: Array, mask: Array) -> float:
    """SD of the log of the determinant + 3, from 1e-9 to 1e9, in `mask` two voxels off the border.

    determinant, mask: (*shape). For comparison with Learn2Reg alone: the 3 hides folds and shrinks the SD.
    Hering et al. 2023, doi:10.1109/TMI.2022.3213983, as in the challenge's code. NaN if no voxel is left.
    """
    inner = (slice(2, -2),) * determinant.ndim
    values = determinant[inner][mask[inner]]
    return float(np.log((values + 3).clip(1e-9, 1e9)).std()) if values.size else np.nan


# Digital diffeomorphisms


def _simplices(ndim: int) -> list[Array]:
    """Simplices (d, d) at a voxel, whose rows lead to their other corners: a neighbor along each axis, and
    in 3-D also those that are left amid the cubes on either side once the cubes' corners are cut off."""
    corners = [np.diag(signs) for signs in itertools.product((-1, 1), repeat=ndim)]
    amid = 1 - np.eye(3, dtype=int)
    return [*corners, amid, -amid] if ndim == 3 else corners


def _determinant(rows: Sequence[Sequence[Array]]) -> Array:
    """The determinant (*shape) of a matrix with an array (*shape) in each place, along its first row."""
    first, *rest = rows
    if not rest:
        return first[0]
    terms = [
        value * _determinant([[*row[:column], *row[column + 1 :]] for row in rest])
        for column, value in enumerate(first)
    ]
    return functools.reduce(np.add, terms[::2]) - functools.reduce(np.add, terms[1::2])


def nondiffeomorphic_volume(displacement: Array) -> Array:
    """The volume (*shape) in voxels, the area in 2-D, that folds about each voxel of (d, *shape).

    Liu et al. 2024, arXiv:2212.06060. Central differences skip the voxel itself. Here it spans simplices with
    its neighbors, 4 triangles or 10 tetrahedra, and those that are flipped count half their size, since all
    of them cover space twice. Beyond the border, the displacement goes on as it is there.
    """
    ndim, shape = len(displacement), displacement.shape[1:]
    here = displacement.astype(np.float64)
    padded = np.pad(here, [(0, 0), *[(1, 1)] * ndim], mode="edge")

    def edge(step: Array) -> list[Array]:
        there = (slice(1 + s, 1 + s + n) for s, n in zip(step, shape, strict=True))
        return [*(padded[:, *there] - here + step.reshape(-1, *[1] * ndim))]

    folded = np.zeros(shape)
    for simplex in _simplices(ndim):
        size = np.sign(np.linalg.det(simplex)) * _determinant([edge(step) for step in simplex])
        folded -= np.minimum(size, 0)
    return folded / (2 * math.factorial(ndim))


def nondiffeomorphic_volume_percent(displacement: Array, mask: Array) -> float:
    """`nondiffeomorphic_volume` of (d, *shape), as a share of `mask` (*shape); NaN for an empty mask."""
    volume = nondiffeomorphic_volume(displacement)[mask]
    return float(100 * volume.mean()) if volume.size else np.nan


nondiffeomorphic_area_percent = nondiffeomorphic_volume_percent  # as it is called in 2-D
