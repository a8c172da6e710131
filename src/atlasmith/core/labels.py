"""Label maps: indices of labels, and the overlap of two maps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from atlasmith.core.grid import Array


@dataclass(frozen=True)
class Counts:
    """Numbers of voxels of each label, from which overlap measures follow.

    Args:
        both: (L), voxels with the label in both maps.
        truth: (L), voxels with the label in the true map.
        predicted: (L), voxels with the label in the predicted map.
    """

    both: Array
    truth: Array
    predicted: Array


def label_index(data: Array, labels: Array) -> Array:
    """Replace labels by their index, so that they can be counted.

    Args:
        data: A label map of any shape.
        labels: The labels, sorted, at least one.

    Returns:
        1 + the position in `labels` of each voxel's label, 0 for other values.

    Example:
        >>> label_index(np.array([0, 17, 53, 4]), np.array([17, 53])).tolist()
        [0, 1, 2, 0]
    """
    position = np.minimum(np.searchsorted(labels, data), len(labels) - 1)
    return np.where(labels[position] == data, position + 1, 0).astype(np.int32)


def count_overlap(truth: Array, predicted: Array, labels: int) -> Counts:
    """Count the voxels of each label in two maps, in one pass for any number of labels.

    Args:
        truth: A map of label indices (`label_index`).
        predicted: Another one, of the same shape.
        labels: Number of labels.

    Returns:
        The counts of the indices 1 to `labels`.
    """
    return Counts(
        both=np.bincount(truth[truth == predicted], minlength=labels + 1)[1:],
        truth=np.bincount(truth.ravel(), minlength=labels + 1)[1:],
        predicted=np.bincount(predicted.ravel(), minlength=labels + 1)[1:],
    )


def ratio(numerator: Array, denominator: Array) -> Array:
    """Return numerator / denominator, NaN where the denominator is 0."""
    return np.where(denominator > 0, numerator / np.maximum(denominator, 1), np.nan)


def dice(counts: Counts) -> Array:
    """Compute Dice's coefficient 2 |A and B| / (|A| + |B|) (L) (Dice 1945, doi:10.2307/1932409)."""
    return ratio(2 * counts.both, counts.truth + counts.predicted)
