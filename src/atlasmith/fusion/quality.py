"""What a segmentation is worth where nobody drew one: learned from the atlases, each segmented by the others.

The share of the votes behind each voxel says what Dice to expect of a label if shares were probabilities:
twice what is expected to be right, over the sizes found and expected. Atlases tell how that relates to the
true Dice, and how volumes found relate to manual ones: enough for a prediction of each label's Dice and for
an interval of its volume. The interval is conformal (Vovk et al. 2005, doi:10.1007/b106715; each atlas
against the others), so that it holds its level however errors are distributed, if targets are like atlases.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from atlasmith.config import Config
from atlasmith.core.grid import Array
from atlasmith.core.labels import count_overlap, dice, label_index
from atlasmith.fusion.atlas_qc import audit, robust_deviation
from atlasmith.fusion.methods import Share
from atlasmith.fusion.propagated import library_of
from atlasmith.io.files import write_json
from atlasmith.io.images import read_labels
from atlasmith.io.tables import read_label_values, read_tsv, write_tsv

LEVEL = 0.9  # of the volumes' intervals
PRIOR = 5  # atlases' worth of all labels' spread in that of each
LOW = 4  # a subject is to be looked at if its expected Dice is so many deviations below the atlases' median

COLUMNS = ["index", "name", "volume_mm3", "low_mm3", "high_mm3", "expected_dice", "predicted_dice"]
JUDGED = ["atlas", "method", "index", "expected_dice", "dice", "volume_mm3", "manual_mm3"]


def tallied(said: Iterator[Share], sizes: dict[int, float]) -> Iterator[Share]:
    """`said`, with the sum of every label's share put down in `sizes` as it passes by."""
    for value, box, share in said:
        sizes[value] = float(share.sum())
        yield value, box, share


def found(
    labels: Array, confidence: Array, expected: dict[int, float], names: dict[int, str], voxel: float
) -> list[dict[str, Any]]:
    """A row a label: its volume and expected Dice, from labels and confidence (X, Y, Z) of `voxel` mm3 and
    the volumes, mm3, that the shares add up to. Without `predicted`, intervals and predictions are n/a."""
    values = np.array(sorted(names))
    index = label_index(labels, values).ravel()
    volume = voxel * np.bincount(index, minlength=len(values) + 1)[1:]
    right = voxel * np.bincount(index, confidence.ravel(), len(values) + 1)[1:]
    rows = []
    for k, value in enumerate(values.tolist()):
        size = volume[k] + expected.get(value, 0)
        rows.append(
            {
                "index": value,
                "name": names[value],
                "volume_mm3": float(volume[k]),
                "low_mm3": math.nan,
                "high_mm3": math.nan,
                "expected_dice": 2 * float(right[k]) / size if volume[k] else math.nan,
                "predicted_dice": math.nan,
            }
        )
    return rows


def predicted(rows: list[dict[str, Any]], assessment: dict[str, Any]) -> dict[str, Any]:
    """Put predictions into the `rows` of one subject, in place, and say what they come to."""
    for row in rows:
        label = assessment["labels"].get(str(row["index"]))
        if label is None or not row["volume_mm3"]:
            continue
        dice = label["dice"] + assessment["slope"] * (row["expected_dice"] - label["expected_dice"])
        row["predicted_dice"] = min(max(dice, 0.0), 1.0)
        if assessment["reach"] is not None:
            way = assessment["reach"] * label["deviation"]
            row["low_mm3"] = row["volume_mm3"] * math.exp(label["bias"] - way)
            row["high_mm3"] = row["volume_mm3"] * math.exp(label["bias"] + way)
    expected = _overall(rows, "expected_dice")
    least = assessment["median"] - LOW * assessment["deviation"]
    return {
        "PredictedDice": _overall(rows, "predicted_dice"),
        "ExpectedDice": expected,
        "LookAt": expected is None or expected < least,
    }


def _overall(rows: Sequence[dict[str, Any]], column: str) -> float | None:
    values = [row[column] for row in rows if not math.isnan(row[column])]
    return float(np.mean(values)) if values else None


def assess(config: Config) -> None:
    """Compare the atlases' segmentations, each by all others, with their manual labels; write the comparison,
    what it teaches about subjects without labels, and the atlases' audit."""
    audit(config)
    layout = config.layout
    values = np.array(read_label_values(layout.labels))
    rows: list[dict[str, Any]] = []
    for atlas in library_of(layout):
        assert atlas.labels is not None  # the cohort's checks saw to it
        manual = read_labels(atlas.labels)
        voxel = manual.grid.voxel_volume
        true = label_index(manual.data, values)
        for method in config.fusion.methods:
            fused = label_index(read_labels(layout.segmentation(atlas.id, method)).data, values)
            counts = count_overlap(true, fused, len(values))
            scores = dice(counts)
            table = {int(row["index"]): row for row in read_tsv(layout.volumes(atlas.id, method))}
            for k, value in enumerate(values.tolist()):
                if not (counts.predicted[k] and counts.truth[k]):
                    continue  # nothing to learn from a label that isn't there, or wasn't found
                rows.append(
                    {
                        "atlas": atlas.id,
                        "method": method,
                        "index": value,
                        "expected_dice": float(table[value]["expected_dice"]),
                        "dice": float(scores[k]),
                        "volume_mm3": float(counts.predicted[k] * voxel),
                        "manual_mm3": float(counts.truth[k] * voxel),
                    }
                )
    write_tsv(layout.quality_table, rows, JUDGED)
    fitted = {m: fit([row for row in rows if row["method"] == m]) for m in config.fusion.methods}
    write_json(layout.quality_model, {"Level": LEVEL, "Methods": fitted})
    for method, lesson in fitted.items():
        print(f"assess: {method}, {lesson['atlases']} atlases, slope {lesson['slope']:.2f}", flush=True)


def fit(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the atlases' rows of one method teach.

    Of each label: mean expected and true Dice, the mean and deviation of log(manual volume / volume found),
    shrunk towards those of all labels. Of all: the slope of the true Dice over the expected one within
    labels, the reach of an interval in deviations, None where atlases are too few, and the median and
    deviation, over atlases, of the expected Dice.
    """
    labels = sorted({row["index"] for row in rows})
    groups = {label: [row for row in rows if row["index"] == label] for label in labels}
    expected, true, ratios = (
        {label: np.array([f(row) for row in group]) for label, group in groups.items()}
        for f in (
            lambda row: row["expected_dice"],
            lambda row: row["dice"],
            lambda row: math.log(row["manual_mm3"] / row["volume_mm3"]),
        )
    )
    products = sum(float(((e := expected[k]) - e.mean()) @ (true[k] - true[k].mean())) for k in labels)
    squares = sum(float(np.square(expected[k] - expected[k].mean()).sum()) for k in labels)
    slope = products / squares if squares > 0 else 0.0
    moments = _moments(ratios)
    strange = np.concatenate([_strangeness(ratios, label) for label in labels] or [np.zeros(0)])
    strange = np.sort(strange[np.isfinite(strange)])
    rank = math.ceil(LEVEL * (len(strange) + 1))
    people = [
        np.mean([row["expected_dice"] for row in rows if row["atlas"] == name])
        for name in sorted({row["atlas"] for row in rows})
    ]
    median = float(np.median(people)) if people else 0.0
    return {
        "atlases": len(people),
        "slope": slope,
        "reach": float(strange[rank - 1]) if rank <= len(strange) else None,
        "median": median,
        "deviation": robust_deviation(np.array(people)) if people else 0.0,
        "labels": {
            str(label): {
                "expected_dice": float(expected[label].mean()),
                "dice": float(true[label].mean()),
                "bias": moments[label][0],
                "deviation": moments[label][1],
            }
            for label in labels
        },
    }


def _moments(ratios: dict[int, Array]) -> dict[int, tuple[float, float]]:
    """Each label's mean and deviation; a few atlases' worth of the deviation is that of all labels."""
    degrees = sum(len(r) - 1 for r in ratios.values())
    pooled = sum(float(np.square(r - r.mean()).sum()) for r in ratios.values()) / max(degrees, 1)
    return {
        label: (
            float(r.mean()),
            math.sqrt((np.square(r - r.mean()).sum() + PRIOR * pooled) / (len(r) - 1 + PRIOR)) + 1e-6,
        )
        for label, r in ratios.items()
    }


def _strangeness(ratios: dict[int, Array], label: int) -> Array:
    """How many deviations each atlas's ratio lies from the mean of the others'."""
    found = []
    for left_out in range(len(ratios[label])):
        others = np.delete(ratios[label], left_out)
        if len(others):
            mean, deviation = _moments({**ratios, label: others})[label]
            found.append(abs(ratios[label][left_out] - mean) / deviation)
    return np.array(found)
