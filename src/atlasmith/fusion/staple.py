"""STAPLE: how reliable each atlas is, and what is true, each estimated from the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from atlasmith.core.grid import Array
from atlasmith.fusion.methods import Share

CHANGE = 1e-5  # of any entry of a confusion matrix; smaller ones end the iteration
ITERATIONS = 100
FEW = 16  # labels
PATTERNS = 100_000  # of votes at a time, which bounds memory


@dataclass(frozen=True, eq=False)
class _Patterns:
    """Voxels with equal votes (V, N), the labels considered there (V, K), and how many voxels (V,)."""

    votes: Tensor
    candidates: Tensor
    weight: Tensor


def posterior(labels: Array) -> Iterator[Share]:
    """The posterior of each label, over the whole grid, of labels (N, *shape).

    Warfield et al. 2004 (doi:10.1109/TMI.2004.828354), section 5: expectation maximization with one confusion
    matrix an atlas, started from the majority vote; the prior is the labels' frequency among all votes. The
    products over atlases are sums of logarithms. Voxels with equal votes are counted, not repeated; of more
    than `FEW` labels, those alone are considered at a voxel that have votes there: of 134, two or three.
    """
    values, index = np.unique(labels, return_inverse=True)
    count = len(values)
    flat = index.reshape(len(labels), -1).astype(np.int32)
    # Where all agree on one of many labels, it is the one candidate, and true.
    where = np.flatnonzero((flat != flat[0]).any(axis=0) | (count <= FEW))
    disputed, place, repeats = np.unique(flat[:, where], axis=1, return_inverse=True, return_counts=True)
    agreed = np.bincount(flat[0], minlength=count) - np.bincount(flat[0, where], minlength=count)
    prior = torch.from_numpy(np.bincount(flat.ravel(), minlength=count) / flat.size)

    sure = torch.arange(count)[:, None]
    parts = [_Patterns(sure.expand(count, len(labels)), sure, torch.from_numpy(agreed).double())]
    origins = [np.zeros(0, dtype=np.int64)]
    for rows, candidates in _considered(disputed, count):
        votes = torch.from_numpy(disputed[:, rows].T.astype(np.int64))
        weight = torch.from_numpy(repeats[rows]).double()
        parts.append(_Patterns(votes, torch.from_numpy(candidates), weight))
        origins.append(rows)

    confusion = _confusion(parts, [_majority(part) for part in parts], count)
    for _ in range(ITERATIONS):
        before = confusion
        confusion = _confusion(parts, [_truth(part, before, prior) for part in parts], count)
        if float((confusion - before).abs().max()) < CHANGE:
            break
    truth = [_truth(part, confusion, prior) for part in parts]
    everywhere = tuple(slice(0, n) for n in labels.shape[1:])
    for position, value in enumerate(values):
        share = (flat[0] == position).astype(np.float32)
        ours = np.zeros(disputed.shape[1], dtype=np.float32)
        for part, said, rows in zip(parts[1:], truth[1:], origins[1:], strict=True):
            ours[rows] = torch.where(part.candidates == position, said, 0).sum(dim=1).float().numpy()
        share[where] = ours[place.ravel()]
        yield int(value), everywhere, share.reshape(labels.shape[1:])


def _considered(patterns: Array, count: int) -> Iterator[tuple[Array, Array]]:
    """Columns of (N, V) patterns, some at a time, and the labels (v, K) that are considered there."""
    ordered = np.sort(patterns, axis=0).T
    first = np.ones(ordered.shape, dtype=bool)
    first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    sizes = first.sum(axis=1) if count > FEW else np.full(len(ordered), count)
    for size in np.unique(sizes):
        columns = np.flatnonzero(sizes == size)
        for rows in np.split(columns, range(PATTERNS, len(columns), PATTERNS)):
            if count > FEW:
                candidates = ordered[rows][first[rows]].reshape(len(rows), size).astype(np.int64)
            else:
                candidates = np.tile(np.arange(count), (len(rows), 1))
            yield rows, candidates


def _majority(part: _Patterns) -> Tensor:
    """The winner (V, K), one-hot; ties go to the smallest label."""
    votes = (part.votes[:, :, None] == part.candidates[:, None]).sum(dim=1)
    return torch.nn.functional.one_hot(votes.argmax(dim=1), votes.shape[1]).double()


def _truth(part: _Patterns, confusion: Tensor, prior: Tensor) -> Tensor:
    """E step: the posterior (V, K) of the candidates."""
    log = confusion.clamp(min=1e-300).log()
    total = prior.log()[part.candidates]
    for table, vote in zip(log, part.votes.T, strict=True):
        total = total + table[vote[:, None], part.candidates]
    return torch.softmax(total, dim=1)


def _confusion(parts: Sequence[_Patterns], truth: Sequence[Tensor], count: int) -> Tensor:
    """M step: how often (N, L, L) each atlas says the first label where the second is true."""
    tables = torch.zeros(parts[0].votes.shape[1], count, count, dtype=torch.float64)
    for part, said in zip(parts, truth, strict=True):
        mass = (said * part.weight[:, None]).flatten()
        for table, vote in zip(tables, part.votes.T, strict=True):
            table.view(-1).index_add_(0, (vote[:, None] * count + part.candidates).flatten(), mass)
    return tables / tables.sum(dim=1, keepdim=True).clamp(min=1e-300)
