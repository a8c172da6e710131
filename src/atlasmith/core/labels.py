"""Label maps: indices of labels, the overlap of two maps, and distances to boundaries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

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


def signed_distances(labels: Array, spacing: Sequence[float], reach_mm: float) -> dict[str, Array]:
    """Compute the distance to the boundary of each label, by which shapes are registered as images.

    Args:
        labels: A label map (*shape); what lies outside of it has no label.
        spacing: Size (d) of its voxels, mm.
        reach_mm: Distances beyond it are clipped.

    Returns:
        For each label but 0, by its number, a map (*shape): 0.5 at the boundary, and from there to 1 at
        `reach_mm` inside and to 0 at `reach_mm` outside, float32.

    Example:
        >>> signed_distances(np.array([0, 0, 0, 7, 7, 7]), spacing=(1.0,), reach_mm=5.0)["7"].round(2)
        array([0.25, 0.35, 0.45, 0.55, 0.65, 0.55], dtype=float32)
    """
    maps = {}
    inner = (slice(1, -1),) * labels.ndim
    for label in np.unique(labels[labels != 0]):
        inside = np.pad(labels == label, 1)
        depth, distance = (ndimage.distance_transform_edt(x, spacing)[inner] for x in (inside, ~inside))
        # Between the centers of the voxels on both sides.
        signed = depth - distance - np.where(inside[inner], 0.5, -0.5) * min(spacing)
        maps[str(label)] = (0.5 + np.clip(signed / reach_mm, -1, 1) / 2).astype(np.float32)
    return maps
