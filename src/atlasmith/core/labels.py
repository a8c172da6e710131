"""Label maps: where labels lie, as positions among labels, and the voxels that two maps share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import find_objects

from atlasmith.core.grid import Array


@dataclass(frozen=True)
class Counts:
    """Voxels of each label (L,): in both maps, in the truth, in the prediction.

    Overlaps need no more than these, so that any number of labels costs one pass over the voxels.
    """

    both: Array
    truth: Array
    predicted: Array


def bounding_boxes(labels: Array) -> list[tuple[int, tuple[slice, ...]]]:
    """Each label of some maps (N, *shape), in rising order, and its bounding box there, in N too."""
    values, index = np.unique(labels, return_inverse=True)
    return list(zip(values.tolist(), find_objects(index.reshape(labels.shape) + 1), strict=True))


def label_index(data: Array, labels: Array) -> Array:
    """1 + the position in `labels` (sorted, not empty) of each voxel's label, 0 for all other values."""
    position = np.minimum(np.searchsorted(labels, data), len(labels) - 1)
    return np.where(labels[position] == data, position + 1, 0).astype(np.int32)


def count_overlap(truth: Array, predicted: Array, labels: int) -> Counts:
    """Counts of the values 1..`labels` in two maps of one shape, as `label_index` makes them."""
    return Counts(
        both=np.bincount(truth[truth == predicted], minlength=labels + 1)[1:],
        truth=np.bincount(truth.ravel(), minlength=labels + 1)[1:],
        predicted=np.bincount(predicted.ravel(), minlength=labels + 1)[1:],
    )


def ratio(above: Array, below: Array) -> Array:
    """above / below, NaN where `below` is 0."""
    return np.where(below > 0, above / np.maximum(below, 1), np.nan)


def dice(counts: Counts) -> Array:
    """2 |A and B| / (|A| + |B|) (L,) (Dice 1945, doi:10.2307/1932409)."""
    return ratio(2 * counts.both, counts.truth + counts.predicted)
