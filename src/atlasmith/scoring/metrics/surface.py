"""How far two surfaces lie apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy import ndimage
from surface_distance import metrics as surfel

from atlasmith.geometry import Array

Distances = dict[str, Array]


def surface_distances(truth: Array, predicted: Array, spacing_mm: Sequence[float]) -> Distances:
    """Distances between the surfaces of two boolean masks (2-D or 3-D), neither empty, and surfel areas.

    Nikolov et al. 2021, doi:10.2196/26151, by the package surface-distance: each surfel counts by its area.
    """
    return surfel.compute_surface_distances(truth, predicted, tuple(spacing_mm))


def hd_mm(distances: Distances) -> float:
    """The greatest distance from a point of either surface to the other (Hausdorff)."""
    return float(max(distances["distances_gt_to_pred"].max(), distances["distances_pred_to_gt"].max()))


def hd95_mm(distances: Distances) -> float:
    """The greater of the two directed 95th percentiles of surface distance."""
    return float(surfel.compute_robust_hausdorff(distances, 95))


def assd_mm(distances: Distances) -> float:
    """The mean distance over both surfaces together."""
    total = sum(
        np.sum(distances[f"distances_{a}_to_{b}"] * distances[f"surfel_areas_{a}"])
        for a, b in (("gt", "pred"), ("pred", "gt"))
    )
    return float(total / (distances["surfel_areas_gt"].sum() + distances["surfel_areas_pred"].sum()))


def mad_mm(distances: Distances) -> float:
    """The mean of the two directed mean distances: both surfaces count alike, whatever their areas."""
    return float(np.mean(surfel.compute_average_surface_distance(distances)))


def surface_dice(distances: Distances, tolerance_mm: float) -> float:
    """The share of both surfaces' area that lies within `tolerance_mm` of the other surface."""
    return float(surfel.compute_surface_dice_at_tolerance(distances, tolerance_mm))


def surface_dice_1mm(distances: Distances) -> float:
    """The share of both surfaces' area that lies within 1 mm of the other surface."""
    return surface_dice(distances, 1)


SURFACE: dict[str, Callable[[Distances], float]] = {
    "hd_mm": hd_mm,
    "hd95_mm": hd95_mm,
    "assd_mm": assd_mm,
    "mad_mm": mad_mm,
    "surface_dice_1mm": surface_dice_1mm,
}


def surface_scores(
    truth: Array, predicted: Array, labels: int, spacing_mm: Sequence[float], names: Sequence[str]
) -> dict[str, Array]:
    """Scores (L,) by name, of `SURFACE`, of the values 1..`labels` in two maps (2-D or 3-D) of one shape.

    Each label is cropped to its box, so that any number of them costs about one pass over the voxels.
    """
    scores = {name: np.full(labels, np.nan) for name in names}
    if not names:
        return scores
    boxes = zip(ndimage.find_objects(truth, labels), ndimage.find_objects(predicted, labels), strict=True)
    for index, (first, second) in enumerate(boxes):
        if first and second:
            box = tuple(
                slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(first, second, strict=True)
            )
            distances = surface_distances(truth[box] == index + 1, predicted[box] == index + 1, spacing_mm)
            for name in names:
                scores[name][index] = SURFACE[name](distances)
        elif first or second:
            for name in names:
                scores[name][index] = np.nan if name.endswith("_mm") else 0
    return scores
