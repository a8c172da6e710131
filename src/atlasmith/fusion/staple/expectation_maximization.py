"""STAPLE's expectation maximization of the atlases' confusion matrices and the true segmentation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from atlasmith.core.boxes import bounding_boxes, label_ranks
from atlasmith.core.chunks import at_once
from atlasmith.fusion.aligned import disagreement
from atlasmith.fusion.fuser import LabelProbabilities

TOLERANCE = 1e-5  # of any entry of a confusion matrix; smaller changes end the iteration
MAX_ITERATIONS = 100
DENSE_LABELS = 16  # of so many labels at most, all are candidates at each voxel


@dataclass(frozen=True, eq=False)
class _Patterns:
    """Distinct votes (V, N), the candidate labels of each (V, K), and the number of voxels with it (V,).

    The number of labels stands for no vote.
    """

    votes: Tensor
    candidates: Tensor
    count: Tensor


def staple(labels: Tensor, votes: Tensor | None = None) -> LabelProbabilities:
    """Compute STAPLE's posterior probability of each label.

    Warfield et al. 2004 (doi:10.1109/TMI.2004.828354), section 5: expectation maximization with one confusion
    matrix an atlas, initialized from the majority vote; the prior is the labels' frequency among all votes.
    Products over atlases are sums of logarithms. Voxels with equal votes are processed once; of more than
    `DENSE_LABELS` labels, only those with votes at a voxel are candidates there: of 134, two or three.

    Args:
        labels: (N, *shape) integers, one map an atlas.
        votes: (N, *shape) booleans, false where an atlas's label is left out; at least one is true at each
            voxel. None: none is left out.

    Yields:
        Each label, in rising order, a box of the grid, and its posterior there.
    """
    boxes = bounding_boxes(labels)
    count = len(boxes)
    values, flat = [value for value, _ in boxes], labels.flatten(1)
    # Where all atlases agree on one of many labels, it is the only candidate, and true.
    unclear = disagreement(flat) | (count <= DENSE_LABELS)
    if votes is not None:
        unclear |= ~votes.flatten(1).all(dim=0)
    where = unclear.nonzero()[:, 0]
    codes = label_ranks(flat[:, where], values)
    if votes is not None:
        codes.masked_fill_(~votes.flatten(1)[:, where], count)  # a code beyond all labels: no vote
    agreed = label_ranks(flat[0, ~unclear], values).bincount(minlength=count)
    cast = (codes.flatten().bincount(minlength=count)[:count] + agreed * len(labels)).double()
    ambiguous, place, repeats = _distinct_columns(codes, count + 1)
    del codes

    certain = torch.arange(count, device=labels.device)[:, None]
    parts = [_Patterns(certain.expand(count, len(labels)), certain, agreed.double())]
    columns = [certain[:0, 0]]
    for rows, candidates in _candidates(ambiguous, count):
        parts.append(_Patterns(ambiguous[:, rows].T, candidates, repeats[rows].double()))
        columns.append(rows)

    posteriors = _maximize(parts, cast / cast.sum(), count)
    whole_grid = tuple(slice(0, n) for n in labels.shape[1:])
    for position, (value, box) in enumerate(boxes):
        probability = (flat[0] == value).float()
        of_pattern = torch.zeros(ambiguous.shape[1], device=labels.device)
        for part, posterior, rows in zip(parts[1:], posteriors[1:], columns[1:], strict=True):
            mine = torch.where(part.candidates == position, posterior, 0)
            of_pattern[rows] = mine.sum(dim=1).float()
        probability[where] = of_pattern[place]
        inside = whole_grid if count <= DENSE_LABELS else box
        yield value, inside, probability.view(labels.shape[1:])[inside]


def _distinct_columns(codes: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """The distinct columns (N, P) of codes (N, V) below `size`, where each column is among them (V,), and
    how often each occurs (P,)."""
    key, limit = codes[0].long(), size
    for row in codes[1:]:
        if limit * size >= 2**62:
            distinct, key = key.unique(return_inverse=True)
            limit = len(distinct)
        key, limit = key * size + row, limit * size
    distinct, place, repeats = key.unique(return_inverse=True, return_counts=True)
    one = torch.empty_like(distinct).scatter_(0, place, torch.arange(len(place), device=codes.device))
    return codes[:, one], place, repeats


def _candidates(patterns: Tensor, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield columns of the patterns (N, V), a chunk at a time, and their candidate labels (v, K)."""
    everyone = torch.arange(count, device=patterns.device)
    some = max(1, at_once(patterns.device) // len(patterns))
    for chunk in torch.arange(patterns.shape[1], device=patterns.device).split(some):
        if count <= DENSE_LABELS:
            yield chunk, everyone.expand(len(chunk), count)
            continue
        ordered = patterns[:, chunk].T.sort(dim=1).values
        first = torch.ones_like(ordered, dtype=torch.bool)
        first[:, 1:] = (ordered[:, 1:] != ordered[:, :-1]) & (ordered[:, 1:] < count)
        sizes = first.sum(dim=1)
        for size in sizes.unique().tolist():
            rows = (sizes == size).nonzero()[:, 0]
            yield chunk[rows], ordered[rows][first[rows]].view(len(rows), size).long()


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
        total = total + table.take(vote[:, None] * table.shape[1] + part.candidates)
    return torch.softmax(total, dim=1)


def _confusion(parts: Sequence[_Patterns], posteriors: Sequence[Tensor], count: int) -> Tensor:
    """M step: the frequency (N, L, L) with which each atlas has the first label where the second is true."""
    like = posteriors[0]
    tables = like.new_zeros(parts[0].votes.shape[1], count + 1, count)
    for part, posterior in zip(parts, posteriors, strict=True):
        mass = (posterior * part.count[:, None]).flatten()
        for table, vote in zip(tables, part.votes.T, strict=True):
            table.view(-1).index_add_(0, (vote[:, None] * count + part.candidates).flatten(), mass)
    tables = tables[:, :count]
    return tables / tables.sum(dim=1, keepdim=True).clamp(min=1e-300)
