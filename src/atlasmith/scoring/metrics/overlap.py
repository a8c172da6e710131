"""How far two label maps overlap."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from atlasmith.geometry import Array


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


def _pooled_dice(counts: Counts, weights: Array) -> float:
    """Dice of all labels' voxels together, a voxel of each label counting its weight (L,)."""
    return float(_ratio(2 * weights @ counts.both, weights @ (counts.truth + counts.predicted)))


def volume_weighted_dice(counts: Counts) -> float:
    """The mean Dice, each label weighted by |A| + |B| (Crum et al. 2006, doi:10.1109/TMI.2006.880587)."""
    return _pooled_dice(counts, np.ones(len(counts.both)))


def generalised_dice(counts: Counts) -> float:
    """Dice of all labels together, weighted by 1 / |A|^2 of the truth A, so that small ones count.

    Sudre et al. 2017, doi:10.1007/978-3-319-67558-9_28. A label that the truth lacks weighs as its smallest.
    """
    present = counts.truth > 0
    smallest = min(counts.truth[present], default=1)
    # Relative to the smallest: a weighted sum that isn't empty is at least 1, as `_ratio` wants.
    return _pooled_dice(counts, (smallest / np.where(present, counts.truth, smallest)) ** 2)


MULTILABEL: dict[str, Callable[[Counts], float]] = {
    "generalised_dice": generalised_dice,
    "volume_weighted_dice": volume_weighted_dice,
}
