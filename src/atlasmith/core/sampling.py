"""Sampling, warping and resizing of images and label maps on one grid, in voxels.

A displacement `u` is a pull-back in voxels of the fixed grid, `moved(x) = moving(x + u(x))`. Tensors are
(B, C, *shape) in NIfTI axis order, and channel d of a displacement is its component along axis d.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from atlasmith.core.boxes import bounding_box
from atlasmith.core.chunks import at_once
from atlasmith.core.intensity import antialiasing_sigma

Mode = Literal["bilinear", "nearest"]
Padding = Literal["zeros", "border"]

MASK_THRESHOLD = 0.99  # of an interpolated mask, above which a voxel has data
TIE = 1e-6  # weights that differ by less are equal, whatever the rounding
CPU_POINTS, GPU_POINTS = 2**16, 2**22  # at a time: temporaries stay in a core's cache; fit a GPU's memory


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
    return sample_normalized(image, normalize_points(points, image.shape[2:]), mode, padding)


def normalize_points(points: Tensor, shape: Sequence[int]) -> Tensor:
    """Convert voxel coordinates (B, d, *out) in images of `shape` to the points that grid_sample takes.

    (B, *out, d), the last axis first, from -1 to 1.
    """
    units = normalized_units(shape)
    return torch.stack([points[:, axis] * unit - 1 for axis, unit in enumerate(units)][::-1], dim=-1)


def sample_normalized(
    image: Tensor, points: Tensor, mode: Mode = "bilinear", padding: Padding = "zeros"
) -> Tensor:
    """Interpolate images as `sample` does, at points of `normalize_points`."""
    return F.grid_sample(image, points, mode=mode, padding_mode=padding, align_corners=True)


def points_at_once(device: torch.device) -> int:
    """Return how many points a device transforms and samples at a time."""
    return at_once(device, CPU_POINTS, GPU_POINTS)


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
    dtype = torch.promote_types(image.dtype, displacement.dtype)
    result: Tensor = _Warp.apply(image.to(dtype), displacement.to(dtype), mode, padding)
    return result


class _Warp(torch.autograd.Function):
    """`warp` with its gradient: autograd's own takes many passes over the displacement."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, displacement: Tensor, mode: Mode, padding: Padding) -> Tensor:
        ctx.save_for_backward(image, displacement)
        ctx.mode, ctx.padding = mode, padding
        function = {2: torch.ops.aten.grid_sampler_2d, 3: torch.ops.aten.grid_sampler_3d}[image.ndim - 2]
        result: Tensor = function(image, normalized_grid(displacement), *_as_numbers(mode, padding))
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        image, displacement = ctx.saved_tensors
        needed = ctx.needs_input_grad[:2]
        return *warp_gradients(image, displacement, gradient, needed, ctx.mode, ctx.padding), None, None


def warp_gradients(
    image: Tensor,
    displacement: Tensor,
    gradient: Tensor,
    needed: Sequence[bool] = (True, True),
    mode: Mode = "bilinear",
    padding: Padding = "zeros",
) -> tuple[Tensor | None, Tensor | None]:
    """Compute the gradients of `warp` from that with respect to its result.

    Args:
        image: (B, C, *shape).
        displacement: (B, d, *shape), voxels.
        gradient: (B, C, *shape).
        needed: Which of the two to compute; None is returned for the other one.
        mode: As in `sample`.
        padding: As in `sample`.

    Returns:
        The gradients with respect to the image (B, C, *shape) and the displacement (B, d, *shape).
    """
    units = normalized_units(displacement.shape[2:])
    function = {2: torch.ops.aten.grid_sampler_2d_backward, 3: torch.ops.aten.grid_sampler_3d_backward}
    by_image, by_points = function[len(units)](
        gradient, image, normalized_grid(displacement), *_as_numbers(mode, padding), list(needed)
    )
    if not needed[1]:
        return by_image, None
    result = torch.empty_like(displacement)
    for axis, unit in enumerate(units):
        torch.mul(by_points[..., -1 - axis], unit, out=result[:, axis])
    return by_image if needed[0] else None, result


def _as_numbers(mode: Mode, padding: Padding) -> tuple[int, int, bool]:
    """What grid_sample calls `mode`, `padding_mode` and `align_corners` within torch."""
    return ("bilinear", "nearest").index(mode), ("zeros", "border").index(padding), True


def normalized_units(shape: Sequence[int]) -> list[float]:
    """Return the size of a voxel along each axis in the coordinates of grid_sample, from -1 to 1."""
    return [2 / max(n - 1, 1) for n in shape]


def normalized_grid(displacement: Tensor) -> Tensor:
    """Convert a displacement (B, d, *shape), voxels, to the points that grid_sample takes, without gradient.

    (B, *shape, d), the last axis first, from -1 to 1.
    """
    shape, points = displacement.shape[2:], torch.empty_like(displacement)
    for axis, unit in enumerate(normalized_units(shape)):
        start = torch.arange(shape[axis], device=displacement.device, dtype=displacement.dtype) * unit - 1
        start = start.view(-1, *[1] * (len(shape) - axis - 1))
        torch.add(start, displacement[:, axis], alpha=unit, out=points[:, -1 - axis])
    return points.movedim(1, -1)


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


def gaussian_kernel(sigma: float, taps: int, like: Tensor) -> Tensor:
    """Sample a Gaussian at `taps` voxels around its center, normalized to sum 1.

    Args:
        sigma: Standard deviation, voxels.
        taps: Number of samples.
        like: Gives device and type.

    Returns:
        The weights (taps).

    Example:
        >>> gaussian_kernel(0.5, 3, torch.zeros(()))
        tensor([0.1065, 0.7870, 0.1065])
    """
    position = torch.arange(taps, device=like.device, dtype=like.dtype) - (taps - 1) / 2
    kernel = torch.exp(-position.square() / (2 * sigma**2))
    return kernel / kernel.sum()


def antialias(maps: Tensor, ratios: Sequence[float]) -> Tensor:
    """Smooth maps as sampling them on a coarser grid needs: see `antialiasing_sigma`; border values repeat.

    Args:
        maps: (B, C, *shape), 2-D or 3-D.
        ratios: Spacing of the coarser grid along each axis, in voxels; up to 1 changes nothing.

    Returns:
        (B, C, *shape).
    """
    return smooth(maps, [float(antialiasing_sigma(np.ones(1), ratio)[0]) for ratio in ratios])


def coarsen(image: Tensor, shape: Sequence[int]) -> Tensor:
    """Resample images (B, C, *old), antialiased, to a coarser grid of `shape` whose corner voxels coincide.

    Example:
        >>> coarsen(torch.ones(1, 1, 8, 6), (4, 3)).shape
        torch.Size([1, 1, 4, 3])
    """
    ratios = [(n - 1) / max(m - 1, 1) for n, m in zip(image.shape[2:], shape, strict=True)]
    return resize(antialias(image, ratios), shape)


def smooth(maps: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Convolve maps with a Gaussian; border values repeat.

    Args:
        maps: (B, C, *shape), 2-D or 3-D.
        sigmas: Standard deviations (d) along each axis, voxels; 0 changes nothing.

    Returns:
        (B, C, *shape).
    """
    for axis, sigma in enumerate(sigmas, start=2):
        radius = math.ceil(4 * sigma)
        if radius == 0:
            continue
        size = maps.shape[axis]
        weights = gaussian_kernel(sigma, 2 * radius + 1, maps)
        offsets = torch.arange(-radius, radius + 1, device=maps.device)
        index = (torch.arange(size, device=maps.device)[:, None] + offsets).clamp(0, size - 1)
        # The product with a banded matrix is 20 times as fast on a CPU as a convolution along one axis.
        maps = multiply_along(maps, axis, banded_matrix(weights, index, size))
    return maps


def banded_matrix(weights: Tensor, columns: Tensor, size: int) -> Tensor:
    """Make the matrix (m, size) that has in each row `weights` (k) at `columns` (m, k), summed where several
    are the same.

    Example:
        >>> banded_matrix(torch.tensor([1.0, 2.0]), torch.tensor([[0, 1], [2, 2]]), 3)
        tensor([[1., 2., 0.],
                [0., 0., 3.]])
    """
    return weights.new_zeros(len(columns), size).scatter_add(1, columns, weights.expand(len(columns), -1))


def multiply_along(maps: Tensor, axis: int, matrix: Tensor) -> Tensor:
    """Multiply by a matrix (m, n) along `axis` of size n.

    Example:
        >>> multiply_along(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), 0, torch.ones(1, 2))
        tensor([[4., 6.]])
    """
    if axis == maps.ndim - 1:
        return maps @ matrix.T
    before, after = maps.shape[:axis], maps.shape[axis + 1 :]
    product = matrix @ maps.reshape(math.prod(before), maps.shape[axis], math.prod(after))
    return product.view(*before, len(matrix), *after)
