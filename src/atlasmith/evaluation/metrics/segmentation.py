"""All metrics of a segmentation with many labels, in one pass over the maps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from atlasmith.core.errors import look_up
from atlasmith.core.grid import Array
from atlasmith.core.labels import count_overlap
from atlasmith.evaluation.metrics.surface import surface_distances_of_labels
from atlasmith.evaluation.metrics.table import SEGMENTATION_METRICS


def score_labels(
    truth: Array, predicted: Array, labels: int, spacing_mm: Sequence[float], names: Iterable[str]
) -> dict[str, Array]:
    """Score the labels of a map against the truth.

    A label that neither map has is NaN. One that only one map has gets 0 by a metric of which higher values
    are better, and NaN by a distance, which has no worst value.

    Args:
        truth: Labels (*shape), values 0 to `labels` as `label_index` makes them, 2-D or 3-D.
        predicted: Labels (*shape), in the same way.
        labels: Number of labels L without background.
        spacing_mm: Voxel sizes, mm.
        names: Of metrics in `SEGMENTATION_METRICS`.

    Returns:
        By name: (L,), or () for a metric of all labels together.

    Raises:
        AtlasmithError: For an unknown metric.
    """
    chosen = {name: look_up(SEGMENTATION_METRICS, name, "metric") for name in names}
    surface = {name: metric for name, metric in chosen.items() if metric.kind == "surface"}
    counts = count_overlap(truth, predicted, labels)
    scores = {
        name: np.full(labels, np.nan) if name in surface else np.asarray(metric(counts))
        for name, metric in chosen.items()
    }
    by_label = surface_distances_of_labels(truth, predicted, spacing_mm) if surface else {}
    for label, distances in by_label.items():
        for name, metric in surface.items():
            missing = 0 if metric.better == "higher" else np.nan
            scores[name][label - 1] = metric(distances) if distances else missing
    return scores
