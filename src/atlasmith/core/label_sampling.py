"""Sampling of label maps between voxels."""

from __future__ import annotations

import itertools
import operator

import torch
import torch.nn.functional as F
from torch import Tensor

from atlasmith.core.boxes import bounding_box
from atlasmith.core.sampling import points_at_once

TIE = 1e-6  # weights that differ by less are equal, whatever the rounding


class LabelSampler:
    """Sample an integer label map at points: the argmax of its linearly interpolated one-hot maps.

    Ties go to the smallest label, and outside the map the label is 0. At most 2^d labels have weight at a
    point, so that the cost doesn't depend on the number of labels; where all 2^d voxels around a point have
    the same label, as at most points, it needs no weights at all.

    Args:
        labels: Map (*shape) of labels of 0 or more, of d axes.

    Example:
        >>> labels = torch.tensor([[0, 0, 7], [0, 7, 7]])
        >>> LabelSampler(labels)(torch.tensor([[[0.9], [1.8]]]))
        tensor([7])
    """

    def __init__(self, labels: Tensor) -> None:
        box = bounding_box(labels != 0) or [slice(0, 1)] * labels.ndim
        # Two voxels of background on each side: points beyond the labels need no tests.
        self.limits = [(s.start - 2, s.stop) for s in box]
        padded = F.pad(labels[tuple(box)], [2, 2] * labels.ndim)
        low, high = padded, padded
        for axis in range(labels.ndim):
            size = padded.shape[axis] - 1
            low, high = (
                F.pad(x, [0, 0] * (labels.ndim - axis - 1) + [0, 1])
                for x in (
                    torch.minimum(low.narrow(axis, 0, size), low.narrow(axis, 1, size)),
                    torch.maximum(high.narrow(axis, 0, size), high.narrow(axis, 1, size)),
                )
            )
        self.strides = padded.stride()
        # The smallest and the largest label of the 2^d voxels from each voxel on, and where these are.
        self.labels, self.low, self.high = padded.flatten(), low.flatten(), high.flatten()
        corners = itertools.product((0, 1), repeat=labels.ndim)
        offsets = [sum(map(operator.mul, corner, self.strides)) for corner in corners]
        self.offsets = torch.tensor(offsets, device=labels.device)[:, None]

    def __call__(self, points: Tensor) -> Tensor:
        """Return the labels (*out) at voxel coordinates (1, d, *out)."""
        return self.with_foreground(points)[0]

    def with_foreground(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return the labels, and where labels other than 0 have more than half of the weight, (*out) both."""
        parts = points[0].flatten(1).split(points_at_once(points.device), dim=1)
        labels, foreground = zip(*map(self._sample, parts), strict=True)
        return torch.cat(labels).reshape(points.shape[2:]), torch.cat(foreground).reshape(points.shape[2:])

    def _sample(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Labels and foreground (N) at voxel coordinates (d, N)."""
        floor = points.floor()
        first = -sum(low * stride for (low, _), stride in zip(self.limits, self.strides, strict=True))
        start = torch.full(floor.shape[1:], first, dtype=torch.long, device=points.device)
        for axis, stride in enumerate(self.strides):
            start.add_(floor[axis].clamp(*self.limits[axis]).long(), alpha=stride)
        labels, high = self.low[start], self.high[start]
        foreground = labels != 0
        mixed = torch.nonzero(labels != high)[:, 0]
        if len(mixed):
            fraction = points[:, mixed] - floor[:, mixed]
            labels[mixed], foreground[mixed] = self._heaviest(
                start[mixed], fraction, labels[mixed], high[mixed]
            )
        return labels, foreground

    def _heaviest(self, start: Tensor, fraction: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """The label (M,) of the largest weight among the 2^d voxels from `start`, at fractions (d, M); and
        whether 0 has less than half of it."""
        value, weights = self.labels[start + self.offsets], [torch.ones_like(fraction[0])]
        for part in fraction:
            weights = [weight * side for weight in weights for side in (1 - part, part)]
        weight = torch.stack(weights)
        of_low, of_high = (torch.where(value == label, weight, 0).sum(0) for label in (low, high))
        winner = torch.where(of_high > of_low + TIE, high, low)
        several = torch.nonzero(1 - of_low - of_high > TIE)[:, 0]
        if len(several):
            winner[several] = _heaviest_of_many(value[:, several], weight[:, several])
        return winner, (low != 0) | (of_low < 0.5 - TIE)


def _heaviest_of_many(values: Tensor, weights: Tensor) -> Tensor:
    """The value (M,) of the largest total weight among values and weights (K, M), the smallest in a tie."""
    winner, best = values[0], torch.full_like(weights[0], -1)
    for candidate in values:
        score = torch.where(values == candidate, weights, 0).sum(dim=0)
        better = (score > best + TIE) | ((score > best - TIE) & (candidate < winner))
        winner, best = torch.where(better, candidate, winner), torch.where(better, score, best)
    return winner
