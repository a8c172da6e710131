"""Modes of variation: principal components of fields, such as velocities or momenta."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from atlasmith.core.distributed import all_reduce_sum, shard
from atlasmith.core.fields import per_channel

BLOCK_BYTES = 2**29  # of the fields that are held in memory at once, twice


@dataclass(frozen=True, eq=False)
class Modes:
    """The mean of fields, and the directions in which they vary most.

    Attributes:
        mean: (C, *shape).
        fields: (K, C, *shape), each one standard deviation long: a subject is the mean plus scores times
            these, where each score has variance 1.
        variances: Variance (K,) along each mode, in units of the inner product.
        total: Variance along all modes.
    """

    mean: Tensor
    fields: Tensor
    variances: Tensor
    total: float

    @property
    def explained(self) -> list[float]:
        """Share of the variance that each mode explains."""
        return [float(variance) / max(self.total, 1e-300) for variance in self.variances]


def mean_square_mm(spacing: Sequence[float]) -> Callable[[Tensor], Tensor]:
    """Return the metric of fields in voxels of size `spacing` (d) mm whose squared length is their mean
    square over voxels, mm^2: see `principal_modes`."""

    def metric(fields: Tensor) -> Tensor:
        scale = [size**2 / math.prod(fields.shape[2:]) for size in spacing]
        return per_channel(scale, fields) * fields

    return metric


def principal_modes(
    load: Callable[[int], Tensor], subjects: int, count: int, metric: Callable[[Tensor], Tensor]
) -> Modes:
    """Compute principal components from the subjects' inner products (dual PCA).

    Memory doesn't grow with the number of subjects but for the matrix of inner products: fields are read
    block by block. Under torchrun each process computes its share, and all get the same modes.

    Args:
        load: Gives the field (1, C, *shape) of a subject by its index; any process may ask for any subject.
        subjects: Number of subjects, at least 2.
        count: Number of modes, at most one less than subjects.
        metric: Linear map of fields (B, C, *shape) to their dual ones, such that the inner product of two is
            the sum of one times the dual of the other: `mean_square_mm` for velocities, `Momentum.metric`
            for momenta.

    Returns:
        The modes, those that vary most first. Their signs are such that the largest score is positive.

    Example:
        >>> shifts = torch.tensor([-1.0, 0.0, 2.0]).view(3, 1, 1, 1, 1).expand(3, 1, 2, 6, 6)
        >>> modes = principal_modes(lambda i: shifts[i], 3, 1, mean_square_mm((1.0, 1.0)))
        >>> [round(share, 4) for share in modes.explained], round(float(modes.variances[0]), 3)
        ([1.0], 4.667)
    """
    first = load(0)
    size = min(max(1, BLOCK_BYTES // (8 * first.numel())), subjects)
    blocks = [range(start, min(start + size, subjects)) for start in range(0, subjects, size)]
    products = torch.zeros(subjects, subjects, dtype=torch.float64)
    for index in shard(range(len(blocks))):
        rows = blocks[index]
        dual = metric(torch.cat([load(i) for i in rows])).flatten(1).double()
        for columns in blocks[: index + 1]:
            others = torch.cat([load(i) for i in columns]).flatten(1).double()
            found = (dual @ others.T).cpu()
            products[rows.start : rows.stop, columns.start : columns.stop] = found
            products[columns.start : columns.stop, rows.start : rows.stop] = found.T
    products = all_reduce_sum(products)
    centered = products - products.mean(0) - products.mean(1, keepdim=True) + products.mean()
    values, vectors = torch.linalg.eigh((centered + centered.T) / 2)
    weights = vectors.flip(1)[:, : min(count, subjects - 1)]
    variances = values.flip(0)[: weights.shape[1]].clamp(min=0) / (subjects - 1)
    weights = weights - weights.mean(dim=0)  # where nothing varies, eigenvectors may hold the mean
    weights = weights * torch.sign(weights.gather(0, weights.abs().argmax(dim=0, keepdim=True)))
    combined = torch.cat([torch.full((subjects, 1), 1 / subjects), weights / (subjects - 1) ** 0.5], dim=1)
    combined = combined.to(first.device)
    total = first.new_zeros(combined.shape[1], *first.shape[1:], dtype=torch.float64)
    for i in shard(range(subjects)):
        shares = combined[i].view(-1, *[1] * (first.ndim - 1))
        total += shares * load(i).double()
    fields = all_reduce_sum(total).to(first.dtype)
    return Modes(fields[0], fields[1:], variances, float(centered.diagonal().sum()) / (subjects - 1))
