"""Quality control of the atlases: outliers and duplicates are found, and no others."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.ndimage import binary_erosion

from atlasmith.core.labels import count_overlap
from atlasmith.fusion.atlas_qc import find_outliers, mean_dice, volume_ratio


def atlas_labels(random: np.random.Generator) -> list[np.ndarray]:
    """Labels of twelve subjects: a part left and one right of the middle, of varying size and position."""
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
Corruption = Callable[[np.ndarray], np.ndarray]


def compared(
    random: np.random.Generator,
    maps: list[np.ndarray],
    corrupted: dict[int, Corruption],
    duplicates: tuple[int, ...] = (),
) -> tuple[np.ndarray, np.ndarray]:
    """Dice of each atlas on each, and volume ratios.

    Registration is right but for a shift of a voxel, and propagates the other atlas's labels, corrupted or
    not. Duplicates have the same image, which is registered to itself exactly.
    """
    dice, ratios = np.full((len(maps), len(maps)), np.nan), []
    for j, true in enumerate(maps):
        own, sizes = corrupted.get(j, np.copy)(true), []
        for i in range(len(maps)):
            if i != j:
                shift = (0, 0) if {i, j} == set(duplicates) else SHIFTS[random.integers(len(SHIFTS))]
                moved = np.roll(corrupted.get(i, np.copy)(true), shift, (0, 1))
                dice[i, j] = mean_dice(count_overlap(own + 1, moved + 1, 2))
                sizes.append([(moved == label).sum() for label in (0, 1)])
        ratios.append(volume_ratio(np.array([(own == label).sum() for label in (0, 1)]), np.array(sizes)))
    return dice, np.array(ratios)


@pytest.mark.parametrize("corruption", [lambda labels: labels[::-1], eroded], ids=["flipped", "eroded"])
@pytest.mark.parametrize("seed", range(20))
def test_a_corrupted_atlas_is_found_and_no_other(seed: int, corruption: Corruption) -> None:
    random = np.random.default_rng(seed)
    maps, chosen = atlas_labels(random), seed % 12
    for corrupted in ({}, {chosen: corruption}):
        rows = find_outliers(*compared(random, maps, corrupted))
        assert [k for k, row in enumerate(rows) if row["finding"]] == list(corrupted)


@pytest.mark.parametrize("seed", range(20))
def test_an_atlas_is_compared_with_those_it_was_propagated_to(seed: int) -> None:
    random = np.random.default_rng(seed)
    maps, chosen = atlas_labels(random), seed % 12
    dice, ratios = compared(random, maps, {chosen: lambda labels: labels[::-1]})
    for target in range(12):  # each gets the labels of five others
        others = np.delete(np.arange(12), target)
        dice[random.permutation(others)[5:], target] = np.nan
    rows = find_outliers(dice, ratios)
    assert [k for k, row in enumerate(rows) if row["finding"]] == [chosen]


@pytest.mark.parametrize("seed", range(20))
def test_duplicates_are_found(seed: int) -> None:
    random = np.random.default_rng(seed)
    maps, (a, b) = atlas_labels(random), (seed % 12, (seed + 5) % 12)
    maps[b] = maps[a]
    rows = find_outliers(*compared(random, maps, {}, (a, b)))
    assert {k: row["duplicate"] for k, row in enumerate(rows) if row["finding"]} == {a: b, b: a}
