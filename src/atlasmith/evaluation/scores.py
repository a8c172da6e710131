"""One score, and the long format of the tables of scores."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from atlasmith.core.grid import Array
from atlasmith.evaluation.metrics import METRICS
from atlasmith.io.tables import MEAN, SCAN_COLUMNS, scan_columns

Row = dict[str, Any]

COLUMNS = [*SCAN_COLUMNS, "stage", "method", "label", "metric", "value", "unit"]


@dataclass(frozen=True)
class Score:
    """The value of a metric.

    Attributes:
        label: The label that was scored; `mean` over labels; `all` labels together; a channel of the images,
            but the reference channel; None for none of these.
        metric: Its name.
        value: NaN where undefined.
        unit: mm, 1/mm, 1/mm2, %, dB, or 1.
    """

    label: int | str | None
    metric: str
    value: float
    unit: str


def make_score(metric: str, value: float, label: int | str | None = None) -> Score:
    """Give a value of a metric of `METRICS` its unit."""
    return Score(label, metric, float(value), METRICS[metric].unit)


def label_scores(metric: str, labels: Array, values: Array) -> list[Score]:
    """List a metric's value for each label (L,), and then their mean, without undefined values."""
    scores = [make_score(metric, value, int(label)) for label, value in zip(labels, values, strict=True)]
    return [*scores, make_score(metric, defined_mean(values), MEAN)]


def defined_mean(values: Array) -> float:
    """Compute the mean without NaN; NaN if no value is left."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else np.nan


def to_rows(scan: str | None, stage: str, method: str, scores: Iterable[Score]) -> list[Row]:
    """Make rows with `COLUMNS` of the scores of a scan, or of the template, by a method of a stage."""
    named = {} if scan is None else scan_columns(scan)
    return [{**named, "stage": stage, "method": method, **asdict(score)} for score in scores]
