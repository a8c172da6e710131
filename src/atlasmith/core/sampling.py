"""Sampling, warping and resizing of images and label maps on one grid, in voxels.

A displacement `u` is a pull-back in voxels of the fixed grid, `moved(x) = moving(x + u(x))`. Tensors are
(B, C, *shape) in NIfTI axis order, and channel d of a displacement is its component along axis d.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Mode = Literal["bilinear", "nearest"]
Padding = Literal["zeros", "border"]

MASK_THRESHOLD = 0.99  # of an interpolated mask, above which a voxel has data
TIE = 1e-6  # weights that differ by less are equal, whatever the rounding
LABEL_CHUNK = 2**20  # points at a time, which bounds memory


def coordinates(shape: Sequence[int], like: Tensor) -> Tensor:
    """Return the voxel coordinates (1, d, *shape) of a grid, of the device and type of `like`."""
    axes = [torch.arange(n, device=like.device, dtype=like.dtype) for n in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]


def sample(image: Tensor, points: Tensor, mode: Mode = "bilinear", padding: Padding = "zeros") -> Tensor:
    """Interpolate images at points.

    Args:
        image: (B, C, *in), 2-D or 3-D.
        points: Voxel coordinates (B, d, *out).
        mode: Linear or nearest-neighbor interpolation.
        padding: Values outside the image: zero, or those of its border.

    Returns:
        Values (B, C, *out).
    """
    sizes = torch.tensor(image.shape[2:], device=points.device, dtype=points.dtype)
    scale = 2 / (sizes - 1).clamp(min=1)
    # grid_sample takes (B, *out, d) with the last axis of the image first, from -1 to 1.
    grid = (points.movedim(1, -1) * scale - 1).flip(-1)
    return F.grid_sample(image, grid, mode=mode, padding_mode=padding, align_corners=True)


class LabelSampler:
    """Sample an integer label map at points: the argmax of its linearly interpolated one-hot maps.

    Ties go to the smallest label, and outside the map the label is 0. At most 2^d labels have weight at a
    point, so that the cost doesn't depend on the number of labels; where all 2^d voxels around a point have
    the same label, as at most points, it needs no weights at all.

    Args:
        labels: Integer map (*shape), of d axes.

    Example:
        >>> labels = torch.tensor([[0, 0, 7], [0, 7, 7]])
        >>> LabelSampler(labels)(torch.tensor([[[0.9], [1.8]]]))
        tensor([7])
    """

    def __init__(self, labels: Tensor) -> None:
        self.shape = labels.shape
        # Two voxels of background on each side: points beyond the map need no tests.
        padded = F.pad(labels, [2, 2] * labels.ndim)
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
        # The smallest and the largest label of the 2^d voxels from each voxel on.
        self.labels, self.low, self.high = padded.flatten(), low.flatten(), high.flatten()

    def __call__(self, points: Tensor) -> Tensor:
        """Return the labels (*out) at voxel coordinates (1, d, *out)."""
        flat = points[0].flatten(1)
        parts = [self._sample(part) for part in flat.split(LABEL_CHUNK, dim=1)]
        return torch.cat(parts).reshape(points.shape[2:])

    def _sample(self, points: Tensor) -> Tensor:
        """Labels (N) at voxel coordinates (d, N)."""
        floor = points.floor()
        start = torch.zeros(points.shape[1], dtype=torch.long, device=points.device)
        for axis, (n, stride) in enumerate(zip(self.shape, self.strides, strict=True)):
            start += (floor[axis].clamp(-2, n).long() + 2) * stride
        result, high = self.low[start], self.high[start]
        mixed = torch.nonzero(result != high)[:, 0]
        if len(mixed):
            fraction = points[:, mixed] - floor[:, mixed]
            result[mixed] = self._heaviest(start[mixed], fraction, result[mixed], high[mixed])
        return result

    def _heaviest(self, start: Tensor, fraction: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """The label (M,) of the largest weight among the 2^d voxels from `start`, at fractions (d, M)."""
        values, weights = [], []
        for corner in itertools.product((0, 1), repeat=len(fraction)):
            offset = sum(c * stride for c, stride in zip(corner, self.strides, strict=True))
            values.append(self.labels[start + offset])
            parts = [f if c else 1 - f for c, f in zip(corner, fraction, strict=True)]
            weights.append(functools.reduce(torch.mul, parts))
        value, weight = torch.stack(values), torch.stack(weights)
        of_low, of_high = (torch.where(value == label, weight, 0).sum(0) for label in (low, high))
        winner = torch.where(of_high > of_low + TIE, high, low)
        several = torch.nonzero(((value != low) & (value != high)).any(0))[:, 0]
        if len(several):
            winner[several] = _heaviest_of_many(value[:, several], weight[:, several])
        return winner


def _heaviest_of_many(values: Tensor, weights: Tensor) -> Tensor:
    """The value (M,) of the largest total weight among values and weights (K, M), the smallest in a tie."""
    winner, best = values[0], torch.full_like(weights[0], -1)
    for candidate in values:
        score = torch.where(values == candidate, weights, 0).sum(dim=0)
        better = (score > best + TIE) | ((score > best - TIE) & (candidate < winner))
        winner, best = torch.where(better, candidate, winner), torch.where(better, score, best)
    return winner


def sample_labels(labels: Tensor, points: Tensor) -> Tensor:
    """Return the labels (*out) of a map (*in) at voxel coordinates (1, d, *out), by `LabelSampler`."""
    return LabelSampler(labels)(points)


def warp(image: Tensor, displacement: Tensor, mode: Mode = "bilinear", padding: Padding = "zeros") -> Tensor:
    """Warp images by a displacement on their own grid.

    Args:
        image: (B, C, *shape), 2-D or 3-D.
        displacement: (B, d, *shape), voxels.
        mode: As in `sample`.
        padding: As in `sample`.

    Returns:
        image(x + displacement(x)) (B, C, *shape).

    Example:
        >>> shift = torch.stack([torch.ones(2, 2), torch.zeros(2, 2)])[None]
        >>> warp(torch.arange(4.0).view(1, 1, 2, 2), shift)
        tensor([[[[2., 3.],
                  [0., 0.]]]])
    """
    return F.grid_sample(
        image, normalized_grid(displacement), mode=mode, padding_mode=padding, align_corners=True
    )


def normalized_units(shape: Sequence[int]) -> list[float]:
    """Return the size of a voxel along each axis in the coordinates of grid_sample, from -1 to 1."""
    return [2 / max(n - 1, 1) for n in shape]


def normalized_grid(displacement: Tensor) -> Tensor:
    """Convert a displacement (B, d, *shape), voxels, to the points that grid_sample takes.

    (B, *shape, d), the last axis first, from -1 to 1.
    """
    shape = displacement.shape[2:]
    ends = []
    for axis, unit in enumerate(normalized_units(shape)):
        start = torch.arange(shape[axis], device=displacement.device, dtype=displacement.dtype) * unit - 1
        start = start.view(-1, *[1] * (len(shape) - axis - 1))
        ends.append(torch.add(start, displacement[:, axis], alpha=unit))
    return torch.stack(ends[::-1], dim=-1)


def half_shape(shape: Sequence[int]) -> list[int]:
    """Return the size of a velocity between images of `shape`: half of it, rounded up."""
    return [-(-n // 2) for n in shape]


def resize(image: Tensor, shape: Sequence[int]) -> Tensor:
    """Interpolate images (B, C, *old) linearly on a grid of `shape` whose corner voxels coincide."""
    mode = "bilinear" if len(shape) == 2 else "trilinear"
    return F.interpolate(image, size=tuple(shape), mode=mode, align_corners=True)


def local_mean(maps: Tensor, radius: int) -> Tensor:
    """Average maps over the neighborhood of each voxel, of which only the part within the image counts.

    Args:
        maps: (N, *shape), 2-D or 3-D, of any size.
        radius: Half the side of the neighborhood, voxels.

    Returns:
        (N, *shape).

    Example:
        >>> local_mean(torch.tensor([[[0.0, 3.0, 6.0]]]), 1)
        tensor([[[1.5000, 3.0000, 4.5000]]])
    """
    ndim = maps.ndim - 1
    pool = {2: F.avg_pool2d, 3: F.avg_pool3d}[ndim]

    def mean_with_zeros(x: Tensor) -> Tensor:
        # Padded here, since the pooling refuses an image that is smaller than the neighborhood.
        return pool(F.pad(x[:, None], [radius] * 2 * ndim), 2 * radius + 1, 1)[:, 0]

    return mean_with_zeros(maps) / mean_with_zeros(torch.ones_like(maps[:1]))
