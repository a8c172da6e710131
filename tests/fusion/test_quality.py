"""The predicted quality of segmentations, against subjects with known truth."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from calibrated import calibrate
from fusion_data import weighted

from atlasmith.config import Config
from atlasmith.core.grid import Grid
from atlasmith.fusion import fuse_subject
from atlasmith.fusion.native import native_labels
from atlasmith.fusion.quality import (
    COVERAGE,
    fit_quality_model,
    predict_quality,
    record_sizes,
    volume_table,
)
from atlasmith.io.files import read_json
from atlasmith.io.images import read_labels
from atlasmith.io.tables import read_tsv, scan_id

NAMES = {1: "a", 2: "b"}


def compared(random: np.random.Generator, count: int, biases: dict[int, float]) -> list[dict]:
    """Atlases whose true Dice is 0.5 + 0.4 (expected - 0.8), and whose volumes are off by a factor."""
    rows = []
    for atlas in range(count):
        for label, bias in biases.items():
            expected, volume = random.uniform(0.7, 0.9), random.uniform(500, 1000)
            rows.append(
                {
                    "participant_id": f"sub-{atlas:02d}",
                    "method": "majority",
                    "index": label,
                    "expected_dice": expected,
                    "dice": 0.5 + 0.1 * label + 0.4 * (expected - 0.8),
                    "volume_mm3": volume,
                    "manual_volume_mm3": volume * np.exp(bias + 0.05 * random.standard_t(4)),
                }
            )
    return rows


def test_dice_is_predicted_by_a_line_through_each_labels_mean() -> None:
    model = fit_quality_model(compared(np.random.default_rng(0), 15, {1: 0.0, 2: 0.1}))
    assert model["slope"] == pytest.approx(0.4)
    rows = volume_table(np.array([1, 1, 2]), np.array([0.9, 0.8, 0.7]), {1: 2.0, 2: 0.9}, NAMES, 1.0)
    assert rows[0]["expected_dice"] == pytest.approx(2 * 1.7 / 4)
    assert rows[1]["expected_dice"] == pytest.approx(2 * 0.7 / 1.9)
    sidecar = predict_quality(rows, model)
    truth = [0.5 + 0.1 * row["index"] + 0.4 * (row["expected_dice"] - 0.8) for row in rows]
    assert [row["predicted_dice"] for row in rows] == pytest.approx(truth)
    assert sidecar["PredictedDice"] == pytest.approx(np.mean(truth))


def test_intervals_are_of_new_participants() -> None:
    """The scans of a participant have the same error: seen from each other, they would seem to have none."""
    random = np.random.default_rng(0)
    rows = []
    for participant in range(12):
        error = random.normal(0, 0.2)
        for session in range(4):
            (row,) = compared(random, 1, {1: 0.0})
            volume = {"manual_volume_mm3": row["volume_mm3"] * np.exp(error + random.normal(0, 1e-3))}
            scan = {"participant_id": f"sub-{participant:02d}", "session_id": f"ses-{session}"}
            rows.append({**row, **scan, **volume})
    model, single = fit_quality_model(rows), fit_quality_model(rows[::4])
    # In scales, each participant against the others: nearly that of one scan of each.
    assert model["conformal_quantile"] == pytest.approx(single["conformal_quantile"], rel=0.3)
    assert model["labels"]["1"]["scale"] == pytest.approx(0.2, rel=0.4)


@pytest.mark.parametrize("count", [6, 12, 30])
def test_intervals_of_volumes_have_their_coverage(count: int) -> None:
    covered = []
    for seed in range(150):
        random = np.random.default_rng(seed)
        biases = {label: random.normal(0, 0.1) for label in range(1, 5)}
        model = fit_quality_model(compared(random, count, biases))
        rows = compared(random, 10, biases)
        for start in range(0, len(rows), len(biases)):
            mine = [
                {**row, "name": "", "predicted_dice": np.nan} for row in rows[start : start + len(biases)]
            ]
            if predict_quality(mine, model)["NeedsReview"]:
                continue
            for row in mine:
                covered.append(row["volume_lower_mm3"] <= row["manual_volume_mm3"] <= row["volume_upper_mm3"])
    assert COVERAGE - 0.02 < np.mean(covered) < COVERAGE + 0.05


def test_too_few_atlases_give_no_interval() -> None:
    model = fit_quality_model(compared(np.random.default_rng(0), 3, {1: 0.0}))
    rows = volume_table(np.array([1]), np.array([0.9]), {1: 1.0}, NAMES, 1.0)
    predict_quality(rows, model)
    assert model["conformal_quantile"] is None and np.isnan(rows[0]["volume_lower_mm3"])
    assert np.isfinite(rows[0]["predicted_dice"]) and np.isnan(rows[1]["predicted_dice"])


def test_a_segmentation_without_labels_needs_review() -> None:
    model = fit_quality_model(compared(np.random.default_rng(0), 12, {1: 0.0, 2: 0.0}))
    nothing = volume_table(np.zeros(4, int), np.ones(4), {}, NAMES, 1.0)
    assert predict_quality(nothing, model) == {
        "PredictedDice": None,
        "ExpectedDice": None,
        "NeedsReview": True,
        "ReviewReasons": ["No label was found."],
    }
    usual = volume_table(np.array([1, 2]), np.array([0.8, 0.8]), {1: 1.0, 2: 1.0}, NAMES, 1.0)
    assert predict_quality(usual, model)["NeedsReview"] is False
    poor = volume_table(np.array([1, 2]), np.array([0.4, 0.4]), {1: 1.0, 2: 1.0}, NAMES, 1.0)
    found = predict_quality(poor, model)
    assert found["NeedsReview"] is True and found["PredictedDice"] is None
    assert found["ReviewReasons"] == ["The expected Dice is 0.40, where that of the atlases is about 0.81."]
    assert all(np.isnan([row["predicted_dice"], row["volume_lower_mm3"]]).all() for row in poor)


def test_nothing_is_predicted_of_an_unusual_subject() -> None:
    model = fit_quality_model(compared(np.random.default_rng(0), 12, {1: 0.0, 2: 0.0}))
    usual = volume_table(np.array([1, 2]), np.array([0.8, 0.8]), {1: 1.0, 2: 1.0}, NAMES, 1.0)
    found = predict_quality(usual, model, ["It is a mouse."])
    assert found["PredictedDice"] is None and found["ExpectedDice"] == pytest.approx(0.8)
    assert found["NeedsReview"] is True and found["ReviewReasons"] == ["It is a mouse."]
    assert all(np.isnan([row["predicted_dice"], row["volume_upper_mm3"]]).all() for row in usual)


def test_a_negative_slope_is_not_used() -> None:
    rows = compared(np.random.default_rng(0), 12, {1: 0.0})
    for row in rows:
        row["dice"] = 0.9 - 0.4 * (row["expected_dice"] - 0.8)
    model = fit_quality_model(rows)
    assert model["slope"] == 0
    table = volume_table(np.array([1]), np.array([0.7]), {1: 1.0}, NAMES, 1.0)
    predict_quality(table, model)
    assert table[0]["predicted_dice"] == pytest.approx(np.mean([row["dice"] for row in rows]))


@pytest.mark.parametrize("coarser", [1, 2])
def test_calibrated_probabilities_give_the_true_dice(coarser: int) -> None:
    """With atlases drawn voxel by voxel as the truth is, at the image's voxel size or fused at another."""
    random = np.random.default_rng(0)
    grid = Grid((24, 24, 24), np.diag([coarser, coarser, coarser, 1.0]))
    native = Grid((24 * coarser,) * 3, np.eye(4))
    probability = np.kron(random.beta(0.4, 0.6, (6, 6, 6)), np.ones((4, 4, 4)))
    labels = (random.random((200, *grid.shape)) < probability).astype(np.int32)
    sizes: dict[int, torch.Tensor] = {}
    probabilities = weighted(labels, np.ones(labels.shape, np.float32))
    maps = native_labels(record_sizes(probabilities, sizes), grid, native)
    fused, confidence = (part.numpy() for part in maps)
    expected = {value: float(size) * grid.voxel_volume for value, size in sizes.items()}
    row = volume_table(fused, confidence, expected, {1: "a"}, 1.0)[0]
    truth = np.kron(random.random(grid.shape) < probability, np.ones((coarser,) * 3)) > 0
    dice = 2 * (truth & (fused == 1)).sum() / (truth.sum() + (fused == 1).sum())
    assert row["expected_dice"] == pytest.approx(dice, abs=0.03 * coarser)


def test_the_toy_cohorts_targets_are_as_good_as_predicted(toy_registered: Config) -> None:
    layout = toy_registered.layout
    subjects = calibrate(toy_registered)
    rows = read_tsv(layout.quality_table)
    atlases = [s.id for s in subjects if s.role == "atlas"]
    assert {(scan_id(r), r["method"], r["index"]) for r in rows} == {
        (a, m, k) for a in atlases for m in toy_registered.fusion.methods for k in ("4", "1000")
    }
    target = next(s for s in subjects if s.role == "target")
    fuse_subject(toy_registered, target.id)
    truth = read_labels(target.labels)
    for method in toy_registered.fusion.methods:
        fused = read_labels(layout.segmentation(target.id, method)).data
        sidecar = read_json(layout.segmentation_sidecar(target.id, method))
        scores = []
        for row in read_tsv(layout.volumes(target.id, method)):
            mine, true = fused == int(row["index"]), truth.data == int(row["index"])
            scores.append(2 * (mine & true).sum() / (mine.sum() + true.sum()))
            assert float(row["volume_lower_mm3"]) < float(row["volume_mm3"]) * 1.3
            assert float(row["volume_upper_mm3"]) > float(row["volume_mm3"]) * 0.7
        assert sidecar["PredictedDice"] == pytest.approx(np.mean(scores), abs=0.08)
        assert sidecar["NeedsReview"] is False
    layout.quality_model.unlink()  # as it was for other tests

    rows = read_tsv(layout.atlas_qc)
    assert [scan_id(row) for row in rows] == atlases and not any(row["finding"] for row in rows)
    assert all(0.5 < float(row["dice_as_atlas"]) <= 1 for row in rows)
