"""Each structure's volume and overlap: of the run, and of one subject beside the atlases."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from atlasmith.io.tables import ALL, MEAN, MISSING
from atlasmith.report.figures import MIN_REFERENCE, RANGE
from atlasmith.report.results import Results, number
from atlasmith.report.text import interval_text, number_text

MM3_PER_ML = 1000


def structure_rows(results: Results) -> tuple[list[str], list[dict[str, Any]]]:
    """Summarize each structure over the subjects.

    Returns:
        The methods whose overlap is known, and a row for each structure: `index`, `name`, `color`, the mean
        `volume`, its `sd` and `count`, and `dice` by method as (mean, interval).
    """
    dice: dict[int, dict[str, Mapping[str, str]]] = {}
    for row in results.summary:
        if (
            row["metric"] == "dice"
            and row["stage"] in results.segmentation_stages
            and row["label"] not in (MISSING, MEAN, ALL)
        ):
            dice.setdefault(int(row["label"]), {})[row["method"]] = row
    methods = list(dict.fromkeys(method for found in dice.values() for method in found))[::-1]
    rows = []
    for label, name in results.label_names.items():
        volumes = [
            float(table[label]["volume_mm3"]) / MM3_PER_ML
            for table in results.volumes.values()
            if label in table
        ]
        found = dice.get(label, {})
        rows.append(
            {
                "index": label,
                "name": name,
                "color": results.colors[label],
                "volume": float(np.mean(volumes)) if volumes else math.nan,
                "sd": float(np.std(volumes, ddof=1)) if len(volumes) > 1 else math.nan,
                "count": len(volumes),
                "dice": [
                    (number(found[method]["mean"]), interval_text(found[method])) if method in found else None
                    for method in methods
                ],
            }
        )
    return methods, rows


def reference_volumes(results: Results) -> dict[int, tuple[float, float]]:
    """Compute each structure's range of manual volumes over the atlases, ml; none of too few atlases."""
    manual: dict[int, list[float]] = {}
    for row in results.quality:
        if row["method"] == results.last_method:
            manual.setdefault(int(row["index"]), []).append(float(row["manual_volume_mm3"]) / MM3_PER_ML)
    return {
        label: (float(low), float(high))
        for label, values in manual.items()
        if len(values) >= MIN_REFERENCE
        for low, high in [np.percentile(values, RANGE)]
    }


def subject_structures(
    results: Results, subject: str, references: Mapping[int, tuple[float, float]]
) -> list[dict[str, Any]]:
    """List a subject's structures, with their volumes and predicted overlap.

    Args:
        results: Of the run.
        subject: Its id.
        references: Of `reference_volumes`.

    Returns:
        For each: `index`, `name`, `color`, `volume` and `interval`, ml, `reference`, whether the volume is
        `outside` of it, and `predicted` Dice.
    """
    rows = []
    for label, row in results.volumes.get(subject, {}).items():
        if label not in results.label_names:
            continue
        volume = float(row["volume_mm3"]) / MM3_PER_ML
        low, high = (number(row[f"volume_{end}_mm3"]) / MM3_PER_ML for end in ("lower", "upper"))
        reference = references.get(label)
        rows.append(
            {
                "index": label,
                "name": results.label_names[label],
                "color": results.colors[label],
                "volume": volume,
                "interval": "" if math.isnan(low) else f"{number_text(low)} to {number_text(high)}",
                "reference": "{} to {}".format(*map(number_text, reference)) if reference else "",
                "outside": bool(reference and not reference[0] <= volume <= reference[1]),
                "predicted": number(row["predicted_dice"]),
            }
        )
    return rows
