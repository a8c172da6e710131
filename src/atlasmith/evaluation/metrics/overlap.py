"""Metrics of the overlap of two label maps, from counts of voxels."""

from __future__ import annotations

import numpy as np

from atlasmith.core.grid import Array
from atlasmith.core.labels import Counts, ratio


def jaccard(counts: Counts) -> Array:
    """Compute |A and B| / |A or B| of each label (Jaccard 1901).

    Args:
        counts: As `count_overlap` makes them, of L labels.

    Returns:
        (L,), 0 to 1; NaN for a label that neither map has.
    """
    return ratio(counts.both, counts.truth + counts.predicted - counts.both)


def volume_similarity(counts: Counts) -> Array:
    """Compute 1 - ||A| - |B|| / (|A| + |B|) of each label.

    Taha and Hanbury 2015, doi:10.1186/s12880-015-0068-x. Arguments and result as of `jaccard`.
    """
    return 1 - ratio(np.abs(counts.truth - counts.predicted), counts.truth + counts.predicted)


def precision(counts: Counts) -> Array:
    """Compute the fraction of each predicted label that is true; arguments and result as of `jaccard`."""
    return _fraction_of(counts.predicted, counts)


def recall(counts: Counts) -> Array:
    """Compute the fraction of each true label that was predicted; arguments and result as of `jaccard`."""
    return _fraction_of(counts.truth, counts)


def _fraction_of(voxels: Array, counts: Counts) -> Array:
    """Overlap over `voxels` (L,): 0 for a label that one map alone has, NaN for one that neither has."""
    present = counts.truth + counts.predicted > 0
    return ratio(counts.both, np.where(present, np.maximum(voxels, 1), 0))


def _pooled_dice(counts: Counts, weights: Array) -> float:
    """Dice of all labels' voxels together, a voxel of each label counting its weight (L,)."""
    return float(ratio(2 * weights @ counts.both, weights @ (counts.truth + counts.predicted)))


def volume_weighted_dice(counts: Counts) -> float:
    """Compute the mean Dice of all labels, each weighted by |A| + |B|.

    Crum et al. 2006, doi:10.1109/TMI.2006.880587.

    Args:
        counts: As `count_overlap` makes them.

    Returns:
        0 to 1; NaN where both maps are empty.
    """
    return _pooled_dice(counts, np.ones(len(counts.both)))


def generalized_dice(counts: Counts) -> float:
    """Compute Dice of all labels together, weighted by 1 / |A|^2 of the truth A, so that small ones count.

    Sudre et al. 2017, doi:10.1007/978-3-319-67558-9_28. A label that the truth lacks has the weight of the
    smallest one there. Arguments and result as of `volume_weighted_dice`.
    """
    present = counts.truth > 0
    smallest = min(counts.truth[present], default=1)
    # Relative to the smallest: a weighted sum that isn't empty is at least 1, as `ratio` needs.
    return _pooled_dice(counts, (smallest / np.where(present, counts.truth, smallest)) ** 2)
