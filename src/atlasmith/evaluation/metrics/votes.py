"""What a set of atlases could give, by their votes (A, N) for each voxel's label."""

from __future__ import annotations

import itertools

import numpy as np

from atlasmith.core.grid import Array
from atlasmith.core.labels import Counts, dice


def plurality(votes: Array) -> tuple[Array, Array]:
    """The label with most of the votes (A, N), ties to the smallest, and its number of votes, both (N,)."""
    # Sorted, equal votes are runs: a pass over the atlases, however many labels there are.
    ordered = np.sort(votes, axis=0)
    winner = ordered[0]
    run = most = np.ones(winner.shape, int)
    for previous, current in itertools.pairwise(ordered):
        run = np.where(current == previous, run + 1, 1)
        winner, most = np.where(run > most, current, winner), np.maximum(run, most)
    return winner, most


def agreement(votes: Array) -> float:
    """The mean share of atlases that vote for the winner, of votes (A, N); NaN for no voxel."""
    _, most = plurality(votes)
    return float(most.mean() / len(votes)) if most.size else np.nan


def oracle(votes: Array, truth: Array, labels: int) -> tuple[Array, Array]:
    """What is right where at least 1, 2, .. A atlases are: the share of voxels (A,), and Dice (A, L).

    votes: (A, N) and truth: (N,), of the values 0..`labels`, by `label_index`. For Dice, other voxels are
    background, as in VoteNet (Ding et al. 2019, doi:10.1007/978-3-030-32248-9_23): with 1, the bound of all
    fusion that picks one of its atlases; with more, of fusion that needs some of them to agree.
    """
    right = (votes == truth).sum(axis=0)
    shape = (len(votes) + 1, labels + 1)
    voxels = np.bincount(right * shape[1] + truth, minlength=shape[0] * shape[1]).reshape(shape)
    at_least = voxels[::-1].cumsum(axis=0)[::-1]  # (A + 1, L + 1)
    share = at_least[1:].sum(axis=1) / truth.size if truth.size else np.full(len(votes), np.nan)
    return share, dice(Counts(both=at_least[1:, 1:], truth=at_least[0, 1:], predicted=at_least[1:, 1:]))
