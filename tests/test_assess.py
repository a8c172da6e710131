"""What segmentations are said to be worth, against people whose truth is known."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy.ndimage import binary_erosion

from atlasmith.config import Config
from atlasmith.core.grid import Grid
from atlasmith.core.labels import count_overlap
from atlasmith.fusion import assess, fuse_subject, train_fusers
from atlasmith.fusion.apply import on_native
from atlasmith.fusion.atlas_qc import judge, mean_dice, volume_ratio
from atlasmith.fusion.methods import shares
from atlasmith.fusion.quality import LEVEL, fit, found, predicted, tallied
from atlasmith.io.files import read_json
from atlasmith.io.images import read_labels
from atlasmith.io.tables import read_cohort, read_tsv
from atlasmith.propagation import propagate_subject

NAMES = {1: "a", 2: "b"}


def judged(random: np.random.Generator, count_overlap: int, biases: dict[int, float]) -> list[dict]:
    """Atlases whose true Dice is 0.5 + 0.4 (expected - 0.8), and whose volumes are off by a factor."""
    rows = []
    for atlas in range(count_overlap):
        for label, bias in biases.items():
            expected, volume = random.uniform(0.7, 0.9), random.uniform(500, 1000)
            rows.append(
                {
                    "atlas": f"{atlas:02d}",
                    "method": "majority",
                    "index": label,
                    "expected_dice": expected,
                    "dice": 0.5 + 0.1 * label + 0.4 * (expected - 0.8),
                    "volume_mm3": volume,
                    "manual_mm3": volume * np.exp(bias + 0.05 * random.standard_t(4)),
                }
            )
    return rows


def test_dice_is_predicted_by_a_line_through_each_labels_mean() -> None:
    lesson = fit(judged(np.random.default_rng(0), 15, {1: 0.0, 2: 0.1}))
    assert lesson["slope"] == pytest.approx(0.4)
    rows = found(np.array([1, 1, 2]), np.array([0.9, 0.8, 0.7]), {1: 2.0, 2: 0.9}, NAMES, 1.0)
    assert rows[0]["expected_dice"] == pytest.approx(2 * 1.7 / 4)
    assert rows[1]["expected_dice"] == pytest.approx(2 * 0.7 / 1.9)
    about = predicted(rows, lesson)
    truth = [0.5 + 0.1 * row["index"] + 0.4 * (row["expected_dice"] - 0.8) for row in rows]
    assert [row["predicted_dice"] for row in rows] == pytest.approx(truth)
    assert about["PredictedDice"] == pytest.approx(np.mean(truth))


@pytest.mark.parametrize("count", [6, 12, 30])
def test_intervals_of_volumes_hold_their_level(count_overlap: int) -> None:
    held = []
    for seed in range(150):
        random = np.random.default_rng(seed)
        biases = {label: random.normal(0, 0.1) for label in range(1, 5)}
        lesson = fit(judged(random, count_overlap, biases))
        for row in judged(random, 10, biases):
            mine = {**row, "name": "", "predicted_dice": 0}
            predicted([mine], lesson)
            held.append(mine["low_mm3"] <= row["manual_mm3"] <= mine["high_mm3"])
    assert LEVEL - 0.02 < np.mean(held) < LEVEL + 0.05


def test_too_few_atlases_give_no_interval() -> None:
    lesson = fit(judged(np.random.default_rng(0), 3, {1: 0.0}))
    rows = found(np.array([1]), np.array([0.9]), {1: 1.0}, NAMES, 1.0)
    predicted(rows, lesson)
    assert lesson["reach"] is None and np.isnan(rows[0]["low_mm3"])
    assert np.isfinite(rows[0]["predicted_dice"]) and np.isnan(rows[1]["predicted_dice"])


def test_nothing_found_is_something_to_look_at() -> None:
    lesson = fit(judged(np.random.default_rng(0), 12, {1: 0.0, 2: 0.0}))
    nothing = found(np.zeros(4, int), np.ones(4), {}, NAMES, 1.0)
    assert predicted(nothing, lesson) == {"PredictedDice": None, "ExpectedDice": None, "LookAt": True}
    usual = found(np.array([1, 2]), np.array([0.8, 0.8]), {1: 1.0, 2: 1.0}, NAMES, 1.0)
    assert predicted(usual, lesson)["LookAt"] is False
    poor = found(np.array([1, 2]), np.array([0.4, 0.4]), {1: 1.0, 2: 1.0}, NAMES, 1.0)
    assert predicted(poor, lesson)["LookAt"] is True


@pytest.mark.parametrize("coarser", [1, 2])
def test_shares_that_are_probabilities_expect_the_true_dice(coarser: int) -> None:
    """With voters drawn voxel by voxel as the truth is, at the images' own voxel size or fused at another."""
    random = np.random.default_rng(0)
    grid = Grid((24, 24, 24), np.diag([coarser, coarser, coarser, 1.0]))
    native = Grid((24 * coarser,) * 3, np.eye(4))
    probability = np.kron(random.beta(0.4, 0.6, (6, 6, 6)), np.ones((4, 4, 4)))
    labels = (random.random((200, *grid.shape)) < probability).astype(np.int32)
    sizes: dict[int, float] = {}
    fused, confidence = on_native(
        tallied(shares(labels, np.ones(labels.shape, np.float32)), sizes), grid, native
    )
    row = found(fused, confidence, {k: v * grid.voxel_volume for k, v in sizes.items()}, {1: "a"}, 1.0)[0]
    truth = np.kron(random.random(grid.shape) < probability, np.ones((coarser,) * 3)) > 0
    dice = 2 * (truth & (fused == 1)).sum() / (truth.sum() + (fused == 1).sum())
    assert row["expected_dice"] == pytest.approx(dice, abs=0.03 * coarser)


def test_the_toy_cohorts_targets_are_as_good_as_predicted(toy_registered: Config) -> None:
    layout = toy_registered.layout
    subjects = read_cohort(layout.cohort)
    for subject in subjects:
        if subject.role != "train":
            propagate_subject(toy_registered, subject.id)
    train_fusers(toy_registered)
    for subject in subjects:
        if subject.role == "atlas":
            fuse_subject(toy_registered, subject.id)
    assess(toy_registered)
    rows = read_tsv(layout.quality_table)
    atlases = [s.id for s in subjects if s.role == "atlas"]
    assert {(r["atlas"], r["method"], r["index"]) for r in rows} == {
        (a, m, k) for a in atlases for m in toy_registered.fusion.methods for k in ("4", "1000")
    }
    target = next(s for s in subjects if s.role == "target")
    fuse_subject(toy_registered, target.id)
    truth = read_labels(target.labels)
    for method in toy_registered.fusion.methods:
        fused = read_labels(layout.segmentation(target.id, method)).data
        about = read_json(layout.segmentation_sidecar(target.id, method))
        scores = []
        for row in read_tsv(layout.volumes(target.id, method)):
            mine, true = fused == int(row["index"]), truth.data == int(row["index"])
            scores.append(2 * (mine & true).sum() / (mine.sum() + true.sum()))
            assert float(row["low_mm3"]) < float(row["volume_mm3"]) * 1.3
            assert float(row["high_mm3"]) > float(row["volume_mm3"]) * 0.7
        assert about["PredictedDice"] == pytest.approx(np.mean(scores), abs=0.08)
        assert about["LookAt"] is False
    layout.quality_model.unlink()  # as it was for other tests

    rows = read_tsv(layout.atlas_qc)
    assert [row["atlas"] for row in rows] == atlases and not any(row["finding"] for row in rows)
    assert all(0.5 < float(row["given_dice"]) <= 1 for row in rows)


def library(random: np.random.Generator) -> list[np.ndarray]:
    """Twelve people's labels: a part left and one right of the middle, of some size and place."""
    x, y = np.meshgrid(np.arange(64) - 31.5, np.arange(64) - 31.5, indexing="ij")
    maps = []
    for _ in range(12):
        dx, dy, a, b = random.normal(0, 0.6, 4)
        left = np.hypot(x + 14 + dx, (y + dy) / 1.5) < 9 + a
        right = np.hypot(x - 10 + dx, y + 4 + dy) < 12 + b
        maps.append(np.where(left, 0, np.where(right, 1, -1)))
    return maps


def eroded(labels: np.ndarray) -> np.ndarray:
    return np.where(binary_erosion(labels == 0, iterations=2), 0, np.where(labels == 1, 1, -1))


SHIFTS = [(x, y) for x in (-1, 0, 1) for y in (-1, 0, 1) if x or y]
Spoil = Callable[[np.ndarray], np.ndarray]


def overlaps(
    random: np.random.Generator, maps: list[np.ndarray], spoilt: dict[int, Spoil], twins: tuple[int, ...] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """Dice of each on each, and volume ratios. Registration finds a person's parts but for a shift of a voxel
    and gives them the labels that the other had, spoilt or not. Twins have one image, which finds itself."""
    dice, ratios = np.full((len(maps), len(maps)), np.nan), []
    for j, true in enumerate(maps):
        own, sizes = spoilt.get(j, np.copy)(true), []
        for i in range(len(maps)):
            if i != j:
                shift = (0, 0) if {i, j} == set(twins) else SHIFTS[random.integers(len(SHIFTS))]
                moved = np.roll(spoilt.get(i, np.copy)(true), shift, (0, 1))
                dice[i, j] = mean_dice(count_overlap(own + 1, moved + 1, 2))
                sizes.append([(moved == label).sum() for label in (0, 1)])
        ratios.append(volume_ratio(np.array([(own == label).sum() for label in (0, 1)]), np.array(sizes)))
    return dice, np.array(ratios)


@pytest.mark.parametrize("spoil", [lambda labels: labels[::-1], eroded], ids=["flipped", "eroded"])
@pytest.mark.parametrize("seed", range(20))
def test_an_atlas_that_was_spoilt_is_found_and_no_other(seed: int, spoil: Spoil) -> None:
    random = np.random.default_rng(seed)
    maps, who = library(random), seed % 12
    for spoilt in ({}, {who: spoil}):
        rows = judge(*overlaps(random, maps, spoilt))
        assert [k for k, row in enumerate(rows) if row["finding"]] == list(spoilt)


@pytest.mark.parametrize("seed", range(20))
def test_an_atlas_is_judged_by_those_that_it_met(seed: int) -> None:
    random = np.random.default_rng(seed)
    maps, who = library(random), seed % 12
    dice, ratios = overlaps(random, maps, {who: lambda labels: labels[::-1]})
    for target in range(12):  # each is labelled by five others
        others = np.delete(np.arange(12), target)
        dice[random.permutation(others)[5:], target] = np.nan
    rows = judge(dice, ratios)
    assert [k for k, row in enumerate(rows) if row["finding"]] == [who]


@pytest.mark.parametrize("seed", range(20))
def test_twins_find_each_other(seed: int) -> None:
    random = np.random.default_rng(seed)
    maps, (a, b) = library(random), (seed % 12, (seed + 5) % 12)
    maps[b] = maps[a]
    rows = judge(*overlaps(random, maps, {}, (a, b)))
    assert {k: row["twin"] for k, row in enumerate(rows) if row["finding"]} == {a: b, b: a}
