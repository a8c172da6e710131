"""Choose some of many by their ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

Item = TypeVar("Item")


def choose_evenly(ranked: Sequence[Item], count: int) -> list[Item]:
    """Choose evenly by rank, both ends included.

    Args:
        ranked: What to choose from, in the order of its ranks.
        count: How many, at most.

    Example:
        >>> choose_evenly("abcde", 3), choose_evenly("ab", 5)
        (['a', 'c', 'e'], ['a', 'b'])
    """
    if count <= 0 or not ranked:
        return []
    places = np.linspace(0, len(ranked) - 1, min(count, len(ranked))).round().astype(int)
    return [ranked[place] for place in dict.fromkeys(places.tolist())]
