"""Metrics of transforms: errors of landmarks, inverse consistency, folding, change of volume."""

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


def displacements_mm(steps: Sequence[Step], points: Array) -> Array:
    """Compute how far a transform moves points.

    Args:
        steps: The transform's steps, from first to last.
        points: World points (N, 3), RAS mm.

    Returns:
        Transformed points minus points (N, 3), RAS mm.
    """
    return transform_points(steps, torch.from_numpy(points)).numpy() - points


def inverse_consistency_mm(forward: Sequence[Step], inverse: Sequence[Step], points: Array) -> float:
    """Compute the mean of |inverse(forward(p)) - p|.

    Args:
        forward: Steps of a transform.
        inverse: Steps of its inverse.
        points: World points p (N, 3), RAS mm.

    Returns:
        mm; NaN for no point.
    """
    return _mean_length(displacements_mm([*forward, *inverse], points))


def tre_mm(mapped: Array, expected: Array) -> float:
    """Compute the mean target registration error.

    Fitzpatrick et al. 1998, doi:10.1109/42.736021.

    Args:
        mapped: Transformed landmarks (N, d), mm.
        expected: The landmarks that correspond to them (N, d), mm.

    Returns:
        Their mean distance, mm; NaN for no landmark.

    Example:
        >>> tre_mm(np.array([[3.0, 4.0, 0.0]]), np.zeros((1, 3)))
        5.0
    """
    return _mean_length(mapped - expected)


def tre_quantile_mm(mapped: Array, expected: Array, quantile: float = 0.7) -> float:
    """Compute a quantile of the target registration error, which is robust to a few large errors.

    The default is exceeded by the worst 30 %, as in Learn2Reg (Hering et al. 2023,
    doi:10.1109/TMI.2022.3213983).

    Args:
        mapped: Transformed landmarks (N, d), mm.
        expected: The landmarks that correspond to them (N, d), mm.
        quantile: 0 to 1.

    Returns:
        mm; NaN for no landmark.
    """
    lengths = np.linalg.norm(mapped - expected, axis=1)
    return float(np.quantile(lengths, quantile)) if lengths.size else np.nan


def jacobian_determinant(displacement: Array) -> Array:
    """Compute det D(id + u) of a displacement u, by central differences, one-sided at borders.

    Args:
        displacement: (d, *shape), voxels.

    Returns:
        (*shape).
    """
    tensor = torch.from_numpy(displacement.astype(np.float64))
    return determinant_of(tensor[None])[0].numpy()


def nonpositive_jacobian_percent(determinant: Array, mask: Array) -> float:
    """Compute the percentage of voxels with a Jacobian determinant of 0 or less.

    Args:
        determinant: (*shape).
        mask: (*shape), boolean: the voxels that count.

    Returns:
        0 to 100; NaN for an empty mask.
    """
    return float(100 * np.mean(determinant[mask] <= 0)) if mask.any() else np.nan


def sd_log_jacobian(determinant: Array, mask: Array) -> float:
    """Compute the SD of the log determinant over the voxels in `mask` where it is positive.

    Arguments as of `nonpositive_jacobian_percent`. NaN if it is positive nowhere.
    """
    values = determinant[mask & (determinant > 0)]
    return float(np.log(values).std()) if values.size else np.nan


def sd_log_jacobian_learn2reg(determinant: Array, mask: Array) -> float:
    """Compute the SD of log(determinant + 3), clipped to 1e-9 to 1e9, at least two voxels from the border.

    Only for comparison with Learn2Reg, since the 3 hides folds and shrinks the SD. Hering et al. 2023,
    doi:10.1109/TMI.2022.3213983, as in the challenge's code. Arguments as of `nonpositive_jacobian_percent`;
    NaN if no voxel is left.
    """
    inner = (slice(2, -2),) * determinant.ndim
    values = determinant[inner][mask[inner]]
    return float(np.log((values + 3).clip(1e-9, 1e9)).std()) if values.size else np.nan


def _simplices(ndim: int) -> list[Array]:
    """Simplices (d, d) at a voxel, whose rows are the offsets of their other corners: a neighbor along each
    axis, and in 3-D also the central tetrahedra of the two cubes along the main diagonal."""
    corners = [np.diag(signs) for signs in itertools.product((-1, 1), repeat=ndim)]
    central = 1 - np.eye(3, dtype=int)
    return [*corners, central, -central] if ndim == 3 else corners


def _determinant(rows: Sequence[Sequence[Array]]) -> Array:
    """The determinant (*shape) of a matrix whose elements are arrays (*shape), along its first row."""
    first, *rest = rows
    if not rest:
        return first[0]
    terms = [
        value * _determinant([[*row[:column], *row[column + 1 :]] for row in rest])
        for column, value in enumerate(first)
    ]
    return functools.reduce(np.add, terms[::2]) - functools.reduce(np.add, terms[1::2])


def nondiffeomorphic_volume(displacement: Array) -> Array:
    """Compute the folded volume, in 2-D the folded area, around each voxel.

    Central differences ignore the displacement of the voxel itself. Here it forms simplices with its
    neighbors, 4 triangles or 10 tetrahedra, and the inverted ones count half their size, since all of them
    together cover space twice. Beyond the border, the displacement is constant. Liu et al. 2024,
    doi:10.1007/s11263-024-02047-1, arXiv:2212.06060.

    Args:
        displacement: (d, *shape), voxels.

    Returns:
        (*shape), in voxels.
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
    """Compute `nondiffeomorphic_volume` as a percentage of the volume of a mask.

    Args:
        displacement: (d, *shape), voxels.
        mask: (*shape), boolean.

    Returns:
        0 or more; NaN for an empty mask.
    """
    volume = nondiffeomorphic_volume(displacement)[mask]
    return float(100 * volume.mean()) if volume.size else np.nan


nondiffeomorphic_area_percent = nondiffeomorphic_volume_percent  # as it is called in 2-D
