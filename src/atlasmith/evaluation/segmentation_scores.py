"""Scores of segmentations and of single propagated atlases against the truth, on arrays."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch

from atlasmith.core.grid import Array, Grid
from atlasmith.core.labels import Counts, count_overlap, dice, label_index
from atlasmith.core.sampling import sample
from atlasmith.core.world import resampling_coordinates
from atlasmith.evaluation.metrics import SEGMENTATION_METRICS, score_labels
from atlasmith.evaluation.scores import Score, defined_mean, label_scores, make_score
from atlasmith.io.images import Image
from atlasmith.io.tables import ALL


def evaluate(
    predicted: Array,
    truth: Array,
    spacing_mm: Sequence[float],
    labels: Iterable[int] | None = None,
    metrics: Iterable[str] | None = None,
) -> list[Score]:
    """Score a segmentation against the truth.

    Args:
        predicted: Integer labels (*shape), 2-D or 3-D; an image of a single slice counts as 2-D.
        truth: Integer labels of the same shape.
        spacing_mm: Voxel sizes, mm, one for each axis.
        labels: The labels to score; None: all of both maps but 0, the background.
        metrics: Names in `metrics.SEGMENTATION_METRICS`; None: all of them.

    Returns:
        For each metric a score for each label, in rising order, and their mean; or a single score for a
        metric of all labels together. A label that neither map has is NaN, and is left out of the mean.

    Raises:
        ValueError: If the shapes differ, the maps aren't integers, or there is no label to score.
        AtlasmithError: For an unknown metric.

    Example:
        >>> truth = np.zeros((8, 8), int)
        >>> truth[2:6, 2:6] = 1
        >>> for score in evaluate(np.roll(truth, 1, axis=0), truth, (1.0, 1.0), metrics=["dice", "hd_mm"]):
        ...     print(score.label, score.metric, score.value, score.unit)
        1 dice 0.75 1
        mean dice 0.75 1
        1 hd_mm 1.0 mm
        mean hd_mm 1.0 mm
    """
    if predicted.shape != truth.shape or truth.ndim not in (2, 3) or len(spacing_mm) != truth.ndim:
        raise ValueError(
            f"maps of shape {predicted.shape} and {truth.shape} and {len(spacing_mm)} voxel sizes: "
            "evaluation needs two maps of one 2-D or 3-D shape and a voxel size for each axis"
        )
    if not all(np.issubdtype(each.dtype, np.integer) for each in (predicted, truth)):
        raise ValueError(f"labels of type {predicted.dtype} and {truth.dtype}: they must be integers")
    values = np.unique(list(labels)) if labels is not None else np.union1d(predicted, truth)
    values = values[values != 0]
    if not values.size:
        raise ValueError("there is no label but background. List the ones to score in `labels`")
    if truth.ndim == 3 and 1 in truth.shape:
        axis = max(a for a, size in enumerate(truth.shape) if size == 1)
        predicted, truth = predicted.squeeze(axis), truth.squeeze(axis)
        spacing_mm = [size for a, size in enumerate(spacing_mm) if a != axis]
    indices = label_index(truth, values), label_index(predicted, values)
    names = SEGMENTATION_METRICS if metrics is None else metrics
    scores: list[Score] = []
    for name, found in score_labels(*indices, len(values), spacing_mm, names).items():
        scores += label_scores(name, values, found) if found.ndim else [make_score(name, float(found), ALL)]
    return scores


def single_atlas_dice(truth: Array, native: Grid, propagated: Image, labels: Array) -> Array:
    """Compute Dice of each atlas's propagated labels, averaged over atlases.

    Args:
        truth: True labels (X, Y, Z), as `label_index` makes them of `labels`.
        native: Their grid. Truth outside the grid of `propagated` counts as missed.
        propagated: The atlases' labels (X, Y, Z, A), on a crop of `native` or on any other grid.
        labels: The labels (L,) to score, rising.

    Returns:
        (L,); NaN for a label that no map has.
    """
    box = find_crop(propagated.grid, native)
    if box is None:
        points = resampling_coordinates(propagated.grid, [], native)
    size = len(labels)
    total = np.bincount(truth.ravel(), minlength=size + 1)[1:]
    scores = []
    for atlas in np.moveaxis(propagated.data.reshape(*propagated.grid.shape, -1), -1, 0):
        predicted = label_index(atlas, labels)
        if box is None:
            moving = torch.from_numpy(propagated.grid.squeeze(predicted)).float()[None, None]
            predicted = native.unsqueeze(sample(moving, points, "nearest")[0, 0].numpy().astype(np.int32))
            counts = count_overlap(truth, predicted, size)
        else:
            inside = count_overlap(truth[box], predicted, size)
            counts = Counts(inside.both, total, inside.predicted)
        scores.append(dice(counts))
    return np.array([defined_mean(values) for values in np.array(scores).T])


def find_crop(part: Grid, full: Grid) -> tuple[slice, ...] | None:
    """Find the box of `full` whose crop is the grid `part`; None where `part` is no crop of it."""
    start = np.rint(np.linalg.inv(full.affine)[:3] @ part.affine[:, 3]).astype(int)
    if (start < 0).any() or (start + part.shape > full.shape).any():
        return None
    box = tuple(slice(int(a), int(a) + n) for a, n in zip(start, part.shape, strict=True))
    return box if full.cropped(box).same_as(part) else None
