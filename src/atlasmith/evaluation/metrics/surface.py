"""Metrics of the distance between the surfaces of two segmentations.

Surfaces consist of surface elements (surfels) with areas: Nikolov et al. 2021, doi:10.2196/26151. Areas and
metrics are computed by the package surface-distance, and distances as by it, but of all labels in one pass.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

import numpy as np
from scipy.spatial import KDTree
from surface_distance import (
    compute_average_surface_distance,
    compute_robust_hausdorff,
    compute_surface_dice_at_tolerance,
    lookup_tables,
)

from atlasmith.core.grid import Array

# Corners of voxels (N,), as indices of a flattened map with `MARGIN`, and areas (N,), mm^2, or lengths, mm.
Surfels = tuple[Array, Array]
MARGIN = 2  # a corner more than the outermost surface has, so that all its neighbors have an index too
# Of both surfaces, distances (N,) of the surfels from the other surface, ascending, and areas (N,), under the
# names of the package surface-distance.
Distances = dict[str, Array]


@functools.cache
def _surfel_table(spacing_mm: tuple[float, ...]) -> tuple[Array, Array]:
    """Weights (2^d,) of the voxels around a corner, and the area of a surfel by the sum of those within."""
    if len(spacing_mm) == 2:
        areas = lookup_tables.create_table_neighbour_code_to_contour_length(spacing_mm)
        return lookup_tables.ENCODE_NEIGHBOURHOOD_2D_KERNEL.ravel(), areas
    areas = lookup_tables.create_table_neighbour_code_to_surface_area(spacing_mm)
    return lookup_tables.ENCODE_NEIGHBOURHOOD_3D_KERNEL.ravel(), areas


def _surfels(labels: Array, spacing_mm: Sequence[float]) -> dict[int, Surfels]:
    """The surface of every value above 0 in a map (2-D or 3-D), in one pass over it.

    A surfel lies at a corner where voxels inside and outside meet, and represents the piece of surface
    between them.
    """
    weights, table = _surfel_table(tuple(float(size) for size in spacing_mm))
    padded = np.pad(labels.astype(np.min_scalar_type(labels.max())), MARGIN)  # small numbers compare faster
    steps = list(itertools.product((0, 1), repeat=labels.ndim))
    views = [padded[tuple(slice(s, s - 1 or None) for s in step)] for step in steps]
    mixed = np.zeros(padded.shape, bool)
    mixed[(slice(-1),) * labels.ndim] = functools.reduce(np.logical_or, (v != views[0] for v in views[1:]))
    corners = np.flatnonzero(mixed)
    strides = np.array(padded.strides) // padded.itemsize
    around = [padded.ravel()[corners + strides @ step] for step in steps]
    owners, codes, values = [], [], []
    for position, value in enumerate(around):
        same = [other == value for other in around]
        first = ~functools.reduce(np.logical_or, same[:position], value == 0)
        codes.append(sum(w * s[first] for w, s in zip(weights, same, strict=True)))
        owners.append(corners[first])
        values.append(value[first])
    value = np.concatenate(values)
    order = np.argsort(value, kind="stable")
    found, starts = np.unique(value[order], return_index=True)
    if not found.size:  # np.split makes one piece of nothing
        return {}
    pieces = (np.split(x[order], starts[1:]) for x in (np.concatenate(owners), table[np.concatenate(codes)]))
    return dict(zip(found.tolist(), zip(*pieces, strict=True), strict=True))


def surface_distances_of_labels(
    truth: Array, predicted: Array, spacing_mm: Sequence[float]
) -> dict[int, Distances | None]:
    """Compute the distances between the surfaces of every label, in one pass over the maps.

    Args:
        truth: Labels (*shape), integers of 0 or more, 2-D or 3-D.
        predicted: Labels (*shape).
        spacing_mm: Voxel sizes, mm.

    Returns:
        By label above 0, as of `surface_distances`; None for a label that only one of the maps has.
    """
    first, second = (_surfels(labels, spacing_mm) for labels in (truth, predicted))
    taken = np.zeros([n + 2 * MARGIN for n in truth.shape], bool)

    def directed(here: Surfels, there: Surfels) -> tuple[Array, Array]:
        distance = _nearest(here[0], there[0], taken, np.array(spacing_mm, dtype=float))
        order = np.argsort(distance)
        return distance[order], here[1][order]

    pairs = {value: (first.get(value), second.get(value)) for value in first | second}
    return {
        value: _named(*directed(a, b), *directed(b, a)) if a and b else None
        for value, (a, b) in pairs.items()
    }


def _named(from_truth: Array, truth_areas: Array, from_predicted: Array, predicted_areas: Array) -> Distances:
    return {
        "distances_gt_to_pred": from_truth,
        "distances_pred_to_gt": from_predicted,
        "surfel_areas_gt": truth_areas,
        "surfel_areas_pred": predicted_areas,
    }


def _nearest(here: Array, there: Array, taken: Array, spacing: Array) -> Array:
    """Distances (N,), mm, of the corners `here` (N,) from the nearest of those `there` (M,).

    taken: (*shape), False, before and after the call. Most surfaces lie close together: the corners around
    are looked up in it, nearest first, and a tree is searched only for the corners that remain.
    """
    flat = taken.ravel()
    flat[there] = True
    around = np.array(list(itertools.product((-1, 0, 1), repeat=len(spacing))))
    length = np.linalg.norm(around * spacing, axis=1)
    steps = around @ np.array(taken.strides)
    distance, left, where = np.empty(len(here)), np.arange(len(here)), here
    for each in np.argsort(length, kind="stable"):
        if length[each] >= 2 * spacing.min():  # a corner beyond the direct neighbors may be nearer
            break
        hit = flat[where + steps[each]]
        distance[left[hit]] = length[each]
        left, where = left[~hit], where[~hit]
    flat[there] = False
    if left.size:
        points = [np.stack(np.unravel_index(x, taken.shape), axis=1) * spacing for x in (there, where)]
        tree = KDTree(points[0], leafsize=32, compact_nodes=False, balanced_tree=False)
        distance[left] = tree.query(points[1])[0]
    return distance


def surface_distances(truth: Array, predicted: Array, spacing_mm: Sequence[float]) -> Distances:
    """Compute the distances between the surfaces of two masks.

    Args:
        truth: (*shape), boolean, 2-D or 3-D, not empty.
        predicted: (*shape), boolean, not empty.
        spacing_mm: Voxel sizes, mm.

    Returns:
        Of the truth's surface and of the predicted one: distances (N,) of its surfels from the other surface,
        mm, ascending, and their areas (N,), mm^2 (in 2-D lengths, mm), as `compute_surface_distances` of the
        package surface-distance.

    Raises:
        ValueError: If a mask is empty.

    Example:
        >>> square = np.pad(np.ones((4, 4), bool), 3)
        >>> hd_mm(surface_distances(square, np.roll(square, 2, axis=0), (1.0, 1.0)))
        2.0
    """
    distances = surface_distances_of_labels(
        truth.astype(np.uint8), predicted.astype(np.uint8), spacing_mm
    ).get(1)
    if distances is None:
        raise ValueError("surface distances of an empty mask")
    return distances


def hd_mm(distances: Distances) -> float:
    """Compute the Hausdorff distance: the largest distance from a point of either surface to the other.

    Args:
        distances: As of `surface_distances`.

    Returns:
        mm.
    """
    return float(max(distances["distances_gt_to_pred"][-1], distances["distances_pred_to_gt"][-1]))


def hd95_mm(distances: Distances) -> float:
    """Compute the larger of the two directed 95th percentiles of surface distance, by area; as `hd_mm`."""
    return float(compute_robust_hausdorff(distances, 95))


def assd_mm(distances: Distances) -> float:
    """Compute the average symmetric surface distance, over both surfaces together; as `hd_mm`."""
    areas = [distances["surfel_areas_gt"].sum(), distances["surfel_areas_pred"].sum()]
    return float(np.average(compute_average_surface_distance(distances), weights=areas))


def mad_mm(distances: Distances) -> float:
    """Compute the mean of the two directed mean distances, whatever the surfaces' areas; as `hd_mm`."""
    return float(np.mean(compute_average_surface_distance(distances)))


def surface_dice(distances: Distances, tolerance_mm: float) -> float:
    """Compute the fraction of both surfaces' area that lies within a tolerance of the other surface.

    Args:
        distances: As of `surface_distances`.
        tolerance_mm: The largest distance that counts as agreement, mm.

    Returns:
        0 to 1.
    """
    return float(compute_surface_dice_at_tolerance(distances, tolerance_mm))


def surface_dice_1mm(distances: Distances) -> float:
    """Compute `surface_dice` with a tolerance of 1 mm."""
    return surface_dice(distances, 1)
