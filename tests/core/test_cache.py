"""What is kept in memory, and how much of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from atlasmith.core.cache import BoundedCache, array_bytes


@dataclass(frozen=True, eq=False)
class Pair:
    first: np.ndarray
    second: torch.Tensor | None


def test_bytes_of_nested_arrays_add_up() -> None:
    pair = Pair(np.zeros((2, 3), np.float32), torch.zeros(5, dtype=torch.int16))
    assert array_bytes(pair) == 2 * 3 * 4 + 5 * 2
    assert array_bytes((pair, [np.zeros(7, np.uint8)], "name", None)) == 34 + 7


def test_values_are_made_once_while_they_fit() -> None:
    cache: BoundedCache[np.ndarray] = BoundedCache(limit=25)
    made = []

    def make(size: int) -> np.ndarray:
        made.append(size)
        return np.zeros(size, np.uint8)

    for _ in range(2):
        for size in (10, 20, 15):
            assert len(cache.get(size, lambda size=size: make(size))) == size
    assert made == [10, 20, 15, 20]  # 20 didn't fit after 10; 15 did


def test_what_cannot_fit_drops_nothing() -> None:
    cache: BoundedCache[np.ndarray] = BoundedCache(limit=10)
    kept = cache.get("small", lambda: np.zeros(10, np.uint8))
    cache.get("large", lambda: np.zeros(11, np.uint8))
    assert cache.get("small", lambda: np.zeros(0, np.uint8)) is kept
