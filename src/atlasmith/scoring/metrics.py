"""Scores as pure functions, NumPy in. A name ends in its unit: `_mm`, `_per_mm`, `_percent`, else none.

A score that isn't defined is NaN, and means skip it. Labels: absent from both maps is NaN; absent from one
is 0 for overlaps and NaN for surfaces, since no distance says how wrong a missing label is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from scipy.special import entr, xlogy
from surface_distance import metrics as surfel

from atlasmith.geometry import Array, Step
from atlasmith.warp import map_points


def unit_of(metric: str) -> str:
    """The unit that a metric's name ends in."""
    for ending, unit in (("_per_mm", "1/mm"), ("_mm", "mm"), ("_percent", "%")):
        if metric.endswith(ending):
            return unit
    return "1"


# Overlap


@dataclass(frozen=True)
class Counts:
    """Voxels of each label (L,): in both maps, in the truth, in the prediction.

    Overlaps need no more than these, so that any number of labels costs one pass over the voxels.
    """

    both: Array
    truth: Array
    predicted: Array


def label_index(data: Array, labels: Array) -> Array:
    """1 + the position in `labels` (sorted, not empty) of each voxel's label, 0 for all other values."""
    position = np.minimum(np.searchsorted(labels, data), len(labels) - 1)
    return np.where(labels[position] == data, position + 1, 0).astype(np.int32)


def count(truth: Array, predicted: Array, labels: int) -> Counts:
    """Counts of the values 1..`labels` in two maps of one shape, as `label_index` makes them."""
    return Counts(
        both=np.bincount(truth[truth == predicted], minlength=labels + 1)[1:],
        truth=np.bincount(truth.ravel(), minlength=labels + 1)[1:],
        predicted=np.bincount(predicted.ravel(), minlength=labels + 1)[1:],
    )


def _ratio(above: Array, below: Array) -> Array:
    """above / below, NaN where `below` is 0."""
    return np.where(below > 0, above / np.maximum(below, 1), np.nan)


def dice(counts: Counts) -> Array:
    """2 |A and B| / (|A| + |B|) (L,) (Dice 1945, doi:10.2307/1932409)."""
    return _ratio(2 * counts.both, counts.truth + counts.predicted)


def jaccard(counts: Counts) -> Array:
    """|A and B| / |A or B| (L,) (Jaccard 1901)."""
    return _ratio(counts.both, counts.truth + counts.predicted - counts.both)


def volume_similarity(counts: Counts) -> Array:
    """1 - ||A| - |B|| / (|A| + |B|) (L,) (Taha and Hanbury 2015, doi:10.1186/s12880-015-0068-x)."""
    return 1 - _ratio(np.abs(counts.truth - counts.predicted), counts.truth + counts.predicted)


def precision(counts: Counts) -> Array:
    """The share of the prediction that is true (L,)."""
    present = counts.truth + counts.predicted > 0
    return _ratio(counts.both, np.where(present, np.maximum(counts.predicted, 1), 0))


def recall(counts: Counts) -> Array:
    """The share of the truth that was predicted (L,)."""
    present = counts.truth + counts.predicted > 0
    return _ratio(counts.both, np.where(present, np.maximum(counts.truth, 1), 0))


OVERLAP: dict[str, Callable[[Counts], Array]] = {
    "dice": dice,
    "jaccard": jaccard,
    "volume_similarity": volume_similarity,
    "precision": precision,
    "recall": recall,
}


# Surfaces

Distances = dict[str, Array]


def surface_distances(truth: Array, predicted: Array, spacing_mm: Sequence[float]) -> Distances:
    """Distances between the surfaces of two boolean masks (2-D or 3-D), neither empty, and surfel areas.

    Nikolov et al. 2021, doi:10.2196/26151, by the package surface-distance: each surfel counts by its area.
    """
    return surfel.compute_surface_distances(truth, predicted, tuple(spacing_mm))


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


SURFACE: dict[str, Callable[[Distances], float]] = {"hd95_mm": hd95_mm, "assd_mm": assd_mm}


# Deformations


def nonpositive_jacobian_percent(determinant: Array, mask: Array) -> float:
    """The share of voxels in `mask` with a determinant of 0 or less; NaN for an empty mask."""
    return float(100 * np.mean(determinant[mask] <= 0)) if mask.any() else np.nan


def sd_log_jacobian(determinant: Array, mask: Array) -> float:
    """SD of the log determinant over the voxels in `mask` where it is positive; NaN if there is none."""
    values = determinant[mask & (determinant > 0)]
    return float(np.log(values).std()) if values.size else np.nan


def displacements_mm(steps: Sequence[Step], points: Array) -> Array:
    """Where `steps` take the world points (N, 3), less the points: (N, 3), RAS mm."""
    return map_points(steps, torch.from_numpy(points)).numpy() - points


def inverse_consistency_mm(forward: Sequence[Step], inverse: Sequence[Step], points: Array) -> float:
    """The mean of |inverse(forward(p)) - p| over world points p (N, 3), RAS mm."""
    return float(np.linalg.norm(displacements_mm([*forward, *inverse], points), axis=1).mean())


def mean_displacement_mm(mean_field: Array) -> tuple[float, float]:
    """(mean, maximum) over points of the length of the cohort's mean displacement (N, 3); 0 for a template
    in the middle of its cohort (Guimond et al. 2000, doi:10.1006/cviu.1999.0815)."""
    length = np.linalg.norm(mean_field, axis=1)
    return float(length.mean()), float(length.max())


# Images


def foreground(image: Array) -> Array:
    """The object: above a tenth of the way from the 1st to the 99th percentile, holes filled. 2-D or 3-D."""
    low, high = np.percentile(image, (1, 99))
    return ndimage.binary_fill_holes(image > low + 0.1 * (high - low))


def _scaled(values: Array) -> Array:
    """`values` with their 1st percentile at 0 and their 99th at 1; NaN where these are the same."""
    low, high = np.percentile(values, (1, 99))
    return (values.astype(np.float64) - low) / (high - low if high > low else np.nan)


def ncc(fixed: Array, moved: Array) -> float:
    """Pearson's correlation of two images' values (N,); NaN if one is constant."""
    if np.ptp(fixed) == 0 or np.ptp(moved) == 0:
        return np.nan
    a, b = fixed - fixed.mean(dtype=np.float64), moved - moved.mean(dtype=np.float64)
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def nmse(fixed: Array, moved: Array) -> float:
    """Mean squared difference of two images' values (N,), each scaled by its 1st and 99th percentile."""
    return float(np.mean((_scaled(fixed) - _scaled(moved)) ** 2))


def nmi(fixed: Array, moved: Array, bins: int = 32) -> float:
    """Normalised mutual information (H(a) + H(b)) / H(a, b), from 1 to 2, of two images' values (N,)
    (Studholme et al. 1999, doi:10.1016/S0031-3203(98)00091-0); NaN if one is constant."""
    a, b = _scaled(fixed), _scaled(moved)
    if np.isnan(a).any() or np.isnan(b).any():
        return np.nan
    joint, _, _ = np.histogram2d(a.clip(0, 1), b.clip(0, 1), bins=bins, range=((0, 1), (0, 1)))
    joint /= joint.sum()
    return float((entr(joint.sum(0)).sum() + entr(joint.sum(1)).sum()) / entr(joint).sum())


SIMILARITY: dict[str, Callable[[Array, Array], float]] = {"ncc": ncc, "nmse": nmse, "nmi": nmi}


# Templates


def sharpness_per_mm(image: Array, mask: Array, spacing_mm: Sequence[float]) -> float:
    """Mean gradient magnitude in `mask`, of intensities scaled by the mask's 1st and 99th percentile.

    image, mask: 2-D or 3-D. Blur lowers it; a change of intensity scale and offset leaves it. NaN if flat.
    """
    low, high = np.percentile(image[mask], (1, 99))
    gradient = np.asarray(np.gradient(image.astype(np.float64), *spacing_mm))
    magnitude = np.linalg.norm(gradient[:, mask], axis=0)
    return float(magnitude.mean() / (high - low)) if high > low else np.nan


def entropy_focus_criterion(values: Array) -> float:
    """0 for one bright voxel to 1 for a uniform image (N,); lower is sharper. Negative values count as 0.

    Atkinson et al. 1997, doi:10.1109/42.650886. NaN for fewer than two voxels, or an empty image.
    """
    x = values.clip(min=0).astype(np.float64)
    norm = np.sqrt(x @ x)
    if x.size < 2 or norm == 0:
        return np.nan
    root = np.sqrt(x.size)
    return float(xlogy(x / norm, x / norm).sum() / (root * np.log(1 / root)))
