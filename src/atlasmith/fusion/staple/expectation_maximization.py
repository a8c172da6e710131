"""STAPLE's expectation maximization of the atlases' confusion matrices and the true segmentation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from atlasmith.core.grid import Array
from atlasmith.fusion.fuser import LabelProbabilities

TOLERANCE = 1e-5  # of any entry of a confusion matrix; smaller changes end the iteration
MAX_ITERATIONS = 100
DENSE_LABELS = 16  # of so many labels at most, all are candidates at each voxel
CHUNK_PATTERNS = 100_000  # at a time, which bounds memory


@dataclass(frozen=True, eq=False)
class _Patterns:
    """Distinct votes (V, N), the candidate labels of each (V, K), and the number of voxels with it (V,).

    The number of labels stands for no vote.
    """

    votes: Tensor
    candidates: Tensor
    count: Tensor


def staple(labels: Array, votes: Array | None = None) -> LabelProbabilities:
    """Compute STAPLE's posterior probability of each label over the whole grid.

    Warfield et al. 2004 (doi:10.1109/TMI.2004.828354), section 5: expectation maximization with one confusion
    matrix an atlas, initialized from the majority vote; the prior is the labels' frequency among all votes.
    Products over atlases are sums of logarithms. Voxels with equal votes are processed once; of more than
    `DENSE_LABELS` labels, only those with votes at a voxel are candidates there: of 134, two or three.

    Args:
        labels: (N, *shape) integers, one map an atlas.
        votes: (N, *shape) booleans, false where an atlas's label is left out; at least one is true at each
            voxel. None: none is left out.

    Yields:
        Each label, in rising order, the whole grid, and its posterior (*shape).
    """
    values, index = np.unique(labels, return_inverse=True)
    count = len(values)
    flat = index.reshape(len(labels), -1).astype(np.int32)
    if votes is not None:
        flat[~votes.reshape(flat.shape)] = count  # a code beyond all labels: no vote
    # Where all atlases agree on one of many labels, it is the only candidate, and true.
    where = np.flatnonzero((flat != flat[0]).any(axis=0) | (count <= DENSE_LABELS))
    ambiguous, place, repeats = np.unique(flat[:, where], axis=1, return_inverse=True, return_counts=True)
    agreed = (np.bincount(flat[0], minlength=count) - np.bincount(flat[0, where], minlength=count))[:count]
    cast = flat[flat < count]
    prior = torch.from_numpy(np.bincount(cast, minlength=count) / cast.size)

    certain = torch.arange(count)[:, None]
    parts = [_Patterns(certain.expand(count, len(labels)), certain, torch.from_numpy(agreed).double())]
    columns = [np.zeros(0, dtype=np.int64)]
    for rows, candidates in _candidates(ambiguous, count):
        voted = torch.from_numpy(ambiguous[:, rows].T.astype(np.int64))
        parts.append(_Patterns(voted, torch.from_numpy(candidates), torch.from_numpy(repeats[rows]).double()))
        columns.append(rows)

    posteriors = _maximize(parts, prior, count)
    whole_grid = tuple(slice(0, n) for n in labels.shape[1:])
    for position, value in enumerate(values):
        probability = (flat[0] == position).astype(np.float32)
        of_pattern = np.zeros(ambiguous.shape[1], dtype=np.float32)
        for part, posterior, rows in zip(parts[1:], posteriors[1:], columns[1:], strict=True):
            mine = torch.where(part.candidates == position, posterior, 0)
            of_pattern[rows] = mine.sum(dim=1).float().numpy()
        probability[where] = of_pattern[place.ravel()]
        yield int(value), whole_grid, probability.reshape(labels.shape[1:])


def _candidates(patterns: Array, count: int) -> Iterator[tuple[Array, Array]]:
    """Yield columns of the patterns (N, V), a chunk at a time, and their candidate labels (v, K)."""
    ordered = np.sort(patterns, axis=0).T
    first = np.ones(ordered.shape, dtype=bool)
    first[:, 1:] = (ordered[:, 1:] != ordered[:, :-1]) & (ordered[:, 1:] < count)
    sizes = first.sum(axis=1) if count > DENSE_LABELS else np.full(len(ordered), count)
    for size in np.unique(sizes):
        columns = np.flatnonzero(sizes == size)
        for rows in np.split(columns, range(CHUNK_PATTERNS, len(columns), CHUNK_PATTERNS)):
            if count > DENSE_LABELS:
                candidates = ordered[rows][first[rows]].reshape(len(rows), size).astype(np.int64)
            else:
                candidates = np.tile(np.arange(count), (len(rows), 1))
            yield rows, candidates


def _maximize(parts: Sequence[_Patterns], prior: Tensor, count: int) -> list[Tensor]:
    """Iterate both steps until the confusion matrices converge; return the posterior (V, K) of each part."""
    confusion = _confusion(parts, [_majority(part) for part in parts], count)
    for _ in range(MAX_ITERATIONS):
        before = confusion
        confusion = _confusion(parts, [_posterior(part, before, prior) for part in parts], count)
        if float((confusion - before).abs().max()) < TOLERANCE:
            break
    return [_posterior(part, confusion, prior) for part in parts]


def _majority(part: _Patterns) -> Tensor:
    """The label with the most votes (V, K), one-hot; ties go to the smallest label."""
    votes = (part.votes[:, :, None] == part.candidates[:, None]).sum(dim=1)
    return torch.nn.functional.one_hot(votes.argmax(dim=1), votes.shape[1]).double()


def _posterior(part: _Patterns, confusion: Tensor, prior: Tensor) -> Tensor:
    """E step: the posterior (V, K) of the candidates."""
    log = torch.nn.functional.pad(confusion.clamp(min=1e-300).log(), [0, 0, 0, 1])  # no vote says nothing
    total = prior.log()[part.candidates]
    for table, vote in zip(log, part.votes.T, strict=True):
        total = total + table[vote[:, None], part.candidates]
    return torch.softmax(total, dim=1)


def _confusion(parts: Sequence[_Patterns], posteriors: Sequence[Tensor], count: int) -> Tensor:
    """M step: the frequency (N, L, L) with which each atlas has the first label where the second is true."""
    tables = torch.zeros(parts[0].votes.shape[1], count + 1, count, dtype=torch.float64)
    for part, posterior in zip(parts, posteriors, strict=True):
        mass = (posterior * part.count[:, None]).flatten()
        for table, vote in zip(tables, part.votes.T, strict=True):
            table.view(-1).index_add_(0, (vote[:, None] * count + part.candidates).flatten(), mass)
    tables = tables[:, :count]
    return tables / tables.sum(dim=1, keepdim=True).clamp(min=1e-300)
