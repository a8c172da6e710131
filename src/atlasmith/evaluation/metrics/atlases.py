"""Metrics of a set of atlases: how far their labels agree, and what fusion could gain from them at most."""

from __future__ import annotations

import itertools

import numpy as np

from atlasmith.core.grid import Array
from atlasmith.core.labels import Counts, dice


def plurality(propagated: Array) -> tuple[Array, Array]:
    """Find the most frequent label of each voxel.

    Args:
        propagated: The atlases' labels (A, N).

    Returns:
        The label, of equally frequent ones the smallest, and the number of atlases that have it; both (N,).

    Example:
        >>> plurality(np.array([[1, 3], [1, 2], [2, 2]]))
        (array([1, 2]), array([2, 2]))
    """
    # Sorted, equal labels are runs: a pass over the atlases, however many labels there are.
    ordered = np.sort(propagated, axis=0)
    winner = ordered[0]
    run = most = np.ones(winner.shape, int)
    for previous, current in itertools.pairwise(ordered):
        run = np.where(current == previous, run + 1, 1)
        winner, most = np.where(run > most, current, winner), np.maximum(run, most)
    return winner, most


def agreement(propagated: Array) -> float:
    """Compute the mean fraction of atlases that have the most frequent label of a voxel.

    Args:
        propagated: The atlases' labels (A, N).

    Returns:
        1 / A to 1; NaN for no voxel.
    """
    _, most = plurality(propagated)
    return float(most.mean() / len(propagated)) if most.size else np.nan


def oracle(propagated: Array, truth: Array, labels: int) -> tuple[Array, Array]:
    """Score what is right where at least 1, 2, .. A atlases are right: an upper bound of label fusion.

    For Dice, other voxels are background, as in VoteNet (Ding et al. 2019,
    doi:10.1007/978-3-030-32248-9_23). The first value bounds all fusion that picks one of its atlases; the
    others bound fusion that needs several of them to agree.

    Args:
        propagated: The atlases' labels (A, N), values 0 to `labels` as `label_index` makes them.
        truth: True labels (N,), in the same way.
        labels: Number of labels L without background.

    Returns:
        The fraction of right voxels (A,), and Dice (A, L).
    """
    right = (propagated == truth).sum(axis=0)
    shape = (len(propagated) + 1, labels + 1)
    voxels = np.bincount(right * shape[1] + truth, minlength=shape[0] * shape[1]).reshape(shape)
    at_least = voxels[::-1].cumsum(axis=0)[::-1]  # (A + 1, L + 1)
    fraction = at_least[1:].sum(axis=1) / truth.size if truth.size else np.full(len(propagated), np.nan)
    return fraction, dice(Counts(both=at_least[1:, 1:], truth=at_least[0, 1:], predicted=at_least[1:, 1:]))
