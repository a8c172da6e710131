"""The quality of segmentations without manual labels, predicted from the atlases' own.

Each atlas is segmented by all others and compared with its manual labels. The probability of each voxel's
label gives the expected Dice of a label, if probabilities were calibrated: twice the expected number of right
voxels, over the volumes found and expected. The atlases show how this relates to the true Dice, and how
volumes found relate to manual ones: enough to predict each label's Dice, and an interval of its volume. The
interval is conformal (Vovk et al. 2005, doi:10.1007/b106715; each participant's atlases against those of the
others), so that it has its coverage whatever the distribution of errors, if targets are like atlases.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from atlasmith.config import Config
from atlasmith.core.grid import Array
from atlasmith.core.labels import count_overlap, dice, label_index
from atlasmith.fusion.atlas_qc import MIN_DEVIATION, check_atlases, robust_deviation
from atlasmith.fusion.fuser import LabelProbabilities
from atlasmith.fusion.propagated import read_atlases
from atlasmith.fusion.suitability import fit_suitability, read_measurements
from atlasmith.io.files import write_json
from atlasmith.io.images import read_labels
from atlasmith.io.tables import (
    SCAN_COLUMNS,
    Subject,
    participant_of,
    read_label_values,
    read_tsv,
    scan_columns,
    scan_id,
    write_tsv,
)

COVERAGE = 0.9  # of the volumes' intervals
PRIOR_ATLASES = 5  # a label's scale is shrunk to that of all labels with the weight of so many atlases
REVIEW_DEVIATIONS = 6  # below the atlases' median expected Dice, from which on a subject needs review

VOLUME_COLUMNS = [
    "index",
    "name",
    "volume_mm3",
    "volume_lower_mm3",
    "volume_upper_mm3",
    "expected_dice",
    "predicted_dice",
]
QUALITY_COLUMNS = [
    *SCAN_COLUMNS,
    "method",
    "index",
    "expected_dice",
    "dice",
    "volume_mm3",
    "manual_volume_mm3",
]


def record_sizes(probabilities: LabelProbabilities, sizes: dict[int, Tensor]) -> LabelProbabilities:
    """Yield label probabilities unchanged, and record the sum of each label's in `sizes`."""
    for value, box, probability in probabilities:
        sizes[value] = probability.sum()
        yield value, box, probability


def volume_table(
    labels: Array,
    confidence: Array,
    expected: Mapping[int, float],
    names: Mapping[int, str],
    voxel_volume: float,
) -> list[dict[str, Any]]:
    """Compute each label's volume and expected Dice.

    Args:
        labels: (X, Y, Z).
        confidence: (X, Y, Z), the labels' probabilities.
        expected: Of each label, the volume that its probabilities add up to, mm3.
        names: Of each label.
        voxel_volume: mm3.

    Returns:
        A row of `VOLUME_COLUMNS` for each label; NaN in the columns of `predict_quality`.
    """
    values = np.array(sorted(names))
    index = label_index(labels, values).ravel()
    volume = voxel_volume * np.bincount(index, minlength=len(values) + 1)[1:]
    right = voxel_volume * np.bincount(index, confidence.ravel(), len(values) + 1)[1:]
    rows = []
    for k, value in enumerate(values.tolist()):
        size = volume[k] + expected.get(value, 0)
        rows.append(
            {
                "index": value,
                "name": names[value],
                "volume_mm3": float(volume[k]),
                "volume_lower_mm3": math.nan,
                "volume_upper_mm3": math.nan,
                "expected_dice": 2 * float(right[k]) / size if volume[k] else math.nan,
                "predicted_dice": math.nan,
            }
        )
    return rows


def predict_quality(
    rows: Sequence[dict[str, Any]], model: Mapping[str, Any], unusual: Sequence[str] = ()
) -> dict[str, Any]:
    """Predict each label's Dice and the interval of its volume, in the rows, in place.

    Nothing is predicted of a segmentation that needs review: it isn't like those of the atlases.

    Args:
        rows: Of one subject, from `volume_table`.
        model: Of the method, from `fit_quality_model`.
        unusual: What is unusual about the subject, see `atlasmith.fusion.suitability`.

    Returns:
        For the sidecar: predicted and expected Dice, means over labels, and whether and why the subject needs
        review: since it is unusual, nothing was found, or its expected Dice is far below the atlases'.
    """
    expected = _mean_over_labels(rows, "expected_dice")
    least = model["expected_dice_median"] - REVIEW_DEVIATIONS * model["expected_dice_scale"]
    reasons = list(unusual)
    if expected is None:
        reasons.append("No label was found.")
    elif expected < least:
        usual = model["expected_dice_median"]
        reasons.append(
            f"The expected Dice is {expected:.2f}, where that of the atlases is about {usual:.2f}."
        )
    for row in rows:
        label = model["labels"].get(str(row["index"]))
        if reasons or label is None or not row["volume_mm3"]:
            continue
        predicted = label["dice"] + model["slope"] * (row["expected_dice"] - label["expected_dice"])
        row["predicted_dice"] = min(max(predicted, 0.0), 1.0)
        if model["conformal_quantile"] is not None:
            half_width = model["conformal_quantile"] * label["scale"]
            row["volume_lower_mm3"] = row["volume_mm3"] * math.exp(label["bias"] - half_width)
            row["volume_upper_mm3"] = row["volume_mm3"] * math.exp(label["bias"] + half_width)
    return {
        "PredictedDice": _mean_over_labels(rows, "predicted_dice"),
        "ExpectedDice": expected,
        "NeedsReview": bool(reasons),
        "ReviewReasons": reasons,
    }


def _mean_over_labels(rows: Sequence[dict[str, Any]], column: str) -> float | None:
    values = [row[column] for row in rows if not math.isnan(row[column])]
    return float(np.mean(values)) if values else None


def assess_quality(config: Config) -> None:
    """Fit the quality model to the atlases, each segmented by all others.

    Writes the comparison with their manual labels, the model, with what is usual of the run's scans, and the
    QC of the atlases.

    Args:
        config: The run's config.
    """
    check_atlases(config)
    layout = config.layout
    values = np.array(read_label_values(layout.labels))
    rows = [
        row
        for atlas in read_atlases(layout, passed="fuse")
        for method in config.fusion.methods
        for row in _compare(config, atlas, method, values)
    ]
    write_tsv(layout.quality_table, rows, QUALITY_COLUMNS)
    models = {
        method: fit_quality_model([row for row in rows if row["method"] == method])
        for method in config.fusion.methods
    }
    suitability = fit_suitability(read_measurements(layout))
    write_json(layout.quality_model, {"Coverage": COVERAGE, "Methods": models, "Suitability": suitability})
    for method, model in models.items():
        print(f"quality: {method}, {model['atlases']} atlases, slope {model['slope']:.2f}", flush=True)


def _compare(config: Config, atlas: Subject, method: str, values: Array) -> Iterator[dict[str, Any]]:
    """Yield a row of `QUALITY_COLUMNS` for each label of an atlas that is in both segmentations."""
    assert atlas.labels is not None  # checked with the cohort
    layout = config.layout
    manual = read_labels(atlas.labels)
    fused = read_labels(layout.segmentation(atlas.id, method))
    true, found = (label_index(image.data, values) for image in (manual, fused))
    counts = count_overlap(true, found, len(values))
    scores = dice(counts)
    table = {int(row["index"]): row for row in read_tsv(layout.volumes(atlas.id, method))}
    for k, value in enumerate(values.tolist()):
        if counts.predicted[k] and counts.truth[k]:
            yield {
                **scan_columns(atlas.id),
                "method": method,
                "index": value,
                "expected_dice": float(table[value]["expected_dice"]),
                "dice": float(scores[k]),
                "volume_mm3": float(counts.predicted[k] * manual.grid.voxel_volume),
                "manual_volume_mm3": float(counts.truth[k] * manual.grid.voxel_volume),
            }


def fit_quality_model(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Fit the quality model of one method.

    Args:
        rows: Of `QUALITY_COLUMNS`.

    Returns:
        `slope`: of the true Dice over the expected one, within labels; 0 where it is negative, which would
        predict more of what seems worse and is noise among few atlases. `conformal_quantile`: the half-width
        of an interval, in scales; None where atlases are too few. `expected_dice_median` and
        `expected_dice_scale`: over atlases. `labels`: of each label, the mean `expected_dice` and `dice`, and
        `bias` and `scale`, the mean and the deviation of log(manual volume / volume found), the latter shrunk
        to that of all labels.
    """
    labels = sorted({row["index"] for row in rows})
    groups = {label: [row for row in rows if row["index"] == label] for label in labels}
    expected, true, ratios = (
        {label: np.array([f(row) for row in group]) for label, group in groups.items()}
        for f in (
            lambda row: row["expected_dice"],
            lambda row: row["dice"],
            lambda row: math.log(row["manual_volume_mm3"] / row["volume_mm3"]),
        )
    )
    products = sum(float(((e := expected[k]) - e.mean()) @ (true[k] - true[k].mean())) for k in labels)
    squares = sum(float(np.square(expected[k] - expected[k].mean()).sum()) for k in labels)
    slope = max(products / squares, 0.0) if squares > 0 else 0.0
    moments = _moments(ratios)
    owners = {label: [participant_of(scan_id(row)) for row in group] for label, group in groups.items()}
    nonconformity = np.concatenate(
        [_nonconformity(ratios, owners[label], label) for label in labels] or [np.zeros(0)]
    )
    nonconformity = np.sort(nonconformity[np.isfinite(nonconformity)])
    rank = math.ceil(COVERAGE * (len(nonconformity) + 1))
    of_atlas = [
        np.mean([row["expected_dice"] for row in rows if scan_id(row) == name])
        for name in sorted({scan_id(row) for row in rows})
    ]
    return {
        "atlases": len(of_atlas),
        "slope": slope,
        "conformal_quantile": float(nonconformity[rank - 1]) if rank <= len(nonconformity) else None,
        "expected_dice_median": float(np.median(of_atlas)) if of_atlas else 0.0,
        "expected_dice_scale": max(robust_deviation(np.array(of_atlas or [0.0])), MIN_DEVIATION),
        "labels": {
            str(label): {
                "expected_dice": float(expected[label].mean()),
                "dice": float(true[label].mean()),
                "bias": moments[label][0],
                "scale": moments[label][1],
            }
            for label in labels
        },
    }


def _moments(ratios: Mapping[int, Array]) -> dict[int, tuple[float, float]]:
    """Each label's mean and deviation, the latter shrunk to that of all labels."""
    degrees = sum(len(r) - 1 for r in ratios.values())
    pooled = sum(float(np.square(r - r.mean()).sum()) for r in ratios.values()) / max(degrees, 1)

    def scale(r: Array) -> float:
        squares = np.square(r - r.mean()).sum() + PRIOR_ATLASES * pooled
        return math.sqrt(squares / (len(r) - 1 + PRIOR_ATLASES)) + 1e-6

    return {label: (float(r.mean()), scale(r)) for label, r in ratios.items()}


def _nonconformity(ratios: Mapping[int, Array], owners: Sequence[str], label: int) -> Array:
    """How many deviations each atlas's ratio lies from the mean of those of other participants.

    owners: The participants of the label's ratios.
    """
    found = []
    for ratio, owner in zip(ratios[label], owners, strict=True):
        others = ratios[label][[other != owner for other in owners]]
        if len(others):
            mean, scale = _moments({**ratios, label: others})[label]
            found.append(abs(ratio - mean) / scale)
    return np.array(found)
