"""STAPLE: how reliable each atlas is, and what is true, each estimated from the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor

from atlasmith.fusion.methods import Share, plurality, shares
from atlasmith.geometry import Array

CHANGE = 1e-5  # of any entry of a confusion matrix; smaller ones end the iteration
ITERATIONS = 100
PATTERNS = 20_000  # of votes at a time, which bounds memory


def posterior(labels: Array) -> Iterator[Share]:
    """The posterior of each label, over the whole grid, of labels (N, *shape).

    Warfield et al. 2004 (doi:10.1109/TMI.2004.828354), section 5: expectation maximisation with one confusion
    matrix an atlas, started from the majority vote; the prior is the labels' frequency among all votes. The
    products over atlases are sums of logarithms. Voxels with equal votes are counted, not repeated.
    """
    values, index = np.unique(labels, return_inverse=True)
    count = len(values)
    flat = index.reshape(len(labels), -1)
    patterns, place, repeats = np.unique(flat, axis=1, return_inverse=True, return_counts=True)
    votes = torch.from_numpy(patterns)
    weight = torch.from_numpy(repeats).double()
    prior = torch.from_numpy(np.bincount(flat.ravel(), minlength=count) / flat.size)

    winner, _ = plurality(shares(patterns, np.ones(patterns.shape, np.float32)), patterns.shape[1:])
    first = torch.nn.functional.one_hot(torch.from_numpy(winner).long(), count).double()
    confusion = _confusion(votes, first.__getitem__, weight, count)
    for _ in range(ITERATIONS):
        before = confusion
        confusion = _confusion(votes, partial(_truth, votes, before, prior), weight, count)
        if float((confusion - before).abs().max()) < CHANGE:
            break
    truth = torch.cat([_truth(votes, confusion, prior, part) for part in _parts(votes)])
    everywhere = tuple(slice(0, n) for n in labels.shape[1:])
    for position, value in enumerate(values):
        share = truth[:, position].float().numpy()[place.ravel()].reshape(labels.shape[1:])
        yield int(value), everywhere, share


def _parts(votes: Tensor) -> list[slice]:
    return [slice(start, start + PATTERNS) for start in range(0, votes.shape[1], PATTERNS)]


def _truth(votes: Tensor, confusion: Tensor, prior: Tensor, part: slice) -> Tensor:
    """E step: the posterior (V, L) of the labels behind a part of the votes (N, all)."""
    log = confusion.clamp(min=1e-300).log()
    total = prior.log() + sum(table[vote] for table, vote in zip(log, votes[:, part], strict=True))
    return torch.softmax(total, dim=1)


def _confusion(votes: Tensor, truth: Callable[[slice], Tensor], weight: Tensor, count: int) -> Tensor:
    """M step: how often (N, L, L) each atlas says the first label where the second is true."""
    tables = torch.zeros(len(votes), count, count, dtype=torch.float64)
    for part in _parts(votes):
        mass = truth(part) * weight[part, None]
        for table, vote in zip(tables, votes[:, part], strict=True):
            table.index_add_(0, vote, mass)
    return tables / tables.sum(dim=1, keepdim=True).clamp(min=1e-300)
