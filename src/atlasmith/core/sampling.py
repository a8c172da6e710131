"""Sampling, warping and resizing of images on one grid, in voxels.

A displacement `u` is a pull-back in voxels of the fixed grid, `moved(x) = moving(x + u(x))`. Tensors are
(B, C, *shape) in NIfTI axis order, and channel d of a displacement is its component along axis d.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from atlasmith.core.chunks import at_once
from atlasmith.core.intensity import antialiasing_sigma

Mode = Literal["bilinear", "nearest"]
Padding = Literal["zeros", "border"]

MASK_THRESHOLD = 0.99  # of an interpolated mask, above which a voxel has data
MAX_SLABS = 8  # of an image on a CPU
SUMMED_VALUES = 2**25  # of an image's gradient in all slabs, at most: 128 MiB
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
    count = slab_count(image, points.shape[1], image.requires_grad)
    slabs = points.unflatten(1, (count, points.shape[1] // count)).flatten(0, 1)
    return _joined(
        [
            F.grid_sample(one, part, mode=mode, padding_mode=padding, align_corners=True)
            for one, part in _parts(image, slabs, count)
        ],
        count,
    )


def slab_count(image: Tensor, length: int, summed: bool = False) -> int:
    """Decide into how many slabs of equal thickness the points of an image are cut, sampled as a batch.

    On a CPU torch samples the images of a batch in parallel, but not the points of one image. The number
    doesn't depend on that of threads, nor an image's on the others in its batch: the rounding of a gradient's
    sum over slabs does.

    Args:
        image: (B, C, *in), that is sampled.
        length: Of the points along their first axis.
        summed: Whether the image's gradient is needed, which is as large as the image in each slab.

    Returns:
        A divisor of `length`; 1 on a GPU.

    Example:
        >>> slab_count(torch.zeros(1, 1, 4, 4), 12)
        6
    """
    if image.device.type != "cpu":
        return 1
    most = min(MAX_SLABS, SUMMED_VALUES // image[0].numel()) if summed else MAX_SLABS
    return max(count for count in range(1, max(1, most) + 1) if length % count == 0)


def _parts(image: Tensor, points: Tensor, count: int) -> list[tuple[Tensor, Tensor]]:
    """What is sampled at once: each image (count, C, *in), repeated without a copy, with its slabs of points
    (B * count, *slab, d); all images, where they have one slab each."""
    if count == 1:
        return [(image, points)]
    images = (one.expand(count, *image.shape[1:]) for one in image.split(1))
    return list(zip(images, points.split(count), strict=True))


def _joined(values: Sequence[Tensor], count: int) -> Tensor:
    """Values (B, C, *out) of those of `_parts`, (count, C, *slab) each."""
    if count == 1:
        return values[0]
    return torch.stack([slabs.movedim(0, 1).flatten(1, 2) for slabs in values])


def points_at_once(device: torch.device) -> int:
    """Return how many points a device transforms and samples at a time."""
    return at_once(device, CPU_POINTS, GPU_POINTS)


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
        numbers, count = _as_numbers(mode, padding), slab_count(image, displacement.shape[2])
        parts = _parts(image, normalized_grid(displacement, count), count)
        return _joined([function(one, points, *numbers) for one, points in parts], count)

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
    count = slab_count(image, displacement.shape[2], summed=needed[0])
    function = {2: torch.ops.aten.grid_sampler_2d_backward, 3: torch.ops.aten.grid_sampler_3d_backward}
    settings = (*_as_numbers(mode, padding), list(needed))
    slabs = gradient.unflatten(2, (count, gradient.shape[2] // count)).movedim(2, 1)
    found = [
        function[len(units)](part, one, points, *settings)
        for part, (one, points) in zip(
            slabs if count > 1 else [gradient],
            _parts(image, normalized_grid(displacement, count), count),
            strict=True,
        )
    ]
    by_image, by_points = found[0]
    if count > 1:
        by_image = torch.stack([parts.sum(dim=0) for parts, _ in found]) if needed[0] else None
        by_points = torch.stack([parts.flatten(0, 1) for _, parts in found]) if needed[1] else None
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


def normalized_grid(displacement: Tensor, slabs: int = 1) -> Tensor:
    """Convert a displacement (B, d, *shape), voxels, to the points that grid_sample takes, without gradient.

    (B * slabs, *slab, d), the last axis of a point first, from -1 to 1; slabs are parts of the first axis.
    """
    shape = displacement.shape[2:]
    parts = displacement.unflatten(2, (slabs, shape[0] // slabs)).movedim(2, 1)
    points = torch.empty(parts.shape, dtype=parts.dtype, device=parts.device)
    for axis, unit in enumerate(normalized_units(shape)):
        start = torch.arange(shape[axis], device=displacement.device, dtype=displacement.dtype) * unit - 1
        start = start.view(slabs if axis == 0 else 1, -1, *[1] * (len(shape) - axis - 1))
        torch.add(start, parts[:, :, axis], alpha=unit, out=points[:, :, -1 - axis])
    return points.flatten(0, 1).movedim(1, -1)


def half_shape(shape: Sequence[int]) -> list[int]:
    """Return the size of a velocity between images of `shape`: half of it, rounded up."""
    return [-(-n // 2) for n in shape]


def resize(image: Tensor, shape: Sequence[int]) -> Tensor:
    """Interpolate images (B, C, *old) linearly on a grid of `shape` whose corner voxels coincide.

    Values must be finite: others spread along the axes. An image of that shape is returned as it is.

    Example:
        >>> resize(torch.tensor([[[[0.0, 2.0], [4.0, 6.0]]]]), (2, 3))
        tensor([[[[0., 1., 2.],
                  [4., 5., 6.]]]])
    """
    if image.dtype not in (torch.float32, torch.float64):  # weights would be rounded
        mode = "bilinear" if len(shape) == 2 else "trilinear"
        return F.interpolate(image, size=tuple(shape), mode=mode, align_corners=True)
    # Twice as fast on a CPU as torch's own, whose gradient on a GPU depends on the order of its threads.
    with torch.autocast(image.device.type, enabled=False):
        for axis, (old, new) in enumerate(zip(image.shape[2:], shape, strict=True), start=2):
            if old != new:
                image = multiply_along(image, axis, _interpolation(old, new, image.dtype, image.device))
    return image


@functools.lru_cache(maxsize=64)
def _interpolation(old: int, new: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The matrix (new, old) of linear interpolation along one axis."""
    with torch.inference_mode(False):  # since it is kept, and a gradient may need it
        index = torch.arange(new, device=device, dtype=torch.float64)[:, None]
        position = index * ((old - 1) / max(new - 1, 1))
        return (1 - (position - torch.arange(old, device=device)).abs()).clamp(min=0).to(dtype)


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
    before, after = maps.shape[:axis], maps.shape[axis + 1 :]
    # One product for each part: matmul may join those of a batch, whose rounding then depends on its size.
    if not after:
        parts = maps.reshape(maps.shape[0], -1, maps.shape[axis]) if before else maps[None, None]
        product = torch.bmm(parts, matrix.T.expand(len(parts), -1, -1))
    else:
        parts = maps.reshape(math.prod(before), maps.shape[axis], math.prod(after))
        product = torch.bmm(matrix.expand(len(parts), -1, -1), parts)
    return product.view(*before, len(matrix), *after)
