"""How far two label maps overlap."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from atlasmith.core.grid import Array
from atlasmith.core.labels import Counts, dice, ratio


def jaccard(counts: Counts) -> Array:
    """|A and B| / |A or B| (L,) (Jaccard 1901)."""
    return ratio(counts.both, counts.truth + counts.predicted - counts.both)


def volume_similarity(counts: Counts) -> Array:
    """1 - ||A| - |B|| / (|A| + |B|) (L,) (Taha and Hanbury 2015, doi:10.1186/s12880-015-0068-x)."""
    return 1 - ratio(np.abs(counts.truth - counts.predicted), counts.truth + counts.predicted)


def precision(counts: Counts) -> Array:
    """The share of the prediction that is true (L,)."""
    present = counts.truth + counts.predicted > 0
    return ratio(counts.both, np.where(present, np.maximum(counts.predicted, 1), 0))


def recall(counts: Counts) -> Array:
    """The share of the truth that was predicted (L,)."""
    present = counts.truth + counts.predicted > 0
    return ratio(counts.both, np.where(present, np.maximum(counts.truth, 1), 0))


OVERLAP: dict[str, Callable[[Counts], Array]] = {
    "dice": dice,
    "jaccard": jaccard,
    "volume_similarity": volume_similarity,
    "precision": precision,
    "recall": recall,
}


def _pooled_dice(counts: Counts, weights: Array) -> float:
    """Dice of all labels' voxels together, a voxel of each label counting its weight (L,)."""
    return float(ratio(2 * weights @ counts.both, weights @ (counts.truth + counts.predicted)))


def volume_weighted_dice(counts: Counts) -> float:
    """The mean Dice, each label weighted by |A| + |B| (Crum et al. 2006, doi:10.1109/TMI.2006.880587)."""
    return _pooled_dice(counts, np.ones(len(counts.both)))


def generalized_dice(counts: Counts) -> float:
    """Dice of all labels together, weighted by 1 / |A|^2 of the truth A, so that small ones count.

    Sudre et al. 2017, doi:10.1007/978-3-319-67558-9_28. A label that the truth lacks weighs as its smallest.
    """
    present = counts.truth > 0
    smallest = min(counts.truth[present], default=1)
    # Relative to the smallest: a weighted sum that isn't empty is at least 1, as `_ratio` wants.
    return _pooled_dice(counts, (smallest / np.where(present, counts.truth, smallest)) ** 2)


MULTILABEL: dict[str, Callable[[Counts], float]] = {
    "generalized_dice": generalized_dice,
    "volume_weighted_dice": volume_weighted_dice,
}
