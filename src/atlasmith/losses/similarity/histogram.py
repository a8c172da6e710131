"""Soft histograms of intensities, of images or of patches.

Each voxel counts in a few bins (a Parzen window). The counts (voxels x bins) of an image are never in
memory: voxels are counted in chunks, and counted again for the gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from atlasmith.core.checkpointing import checkpoint
from atlasmith.core.chunks import at_once
from atlasmith.losses.similarity.base import TINY

# Voxels counted at once: on a CPU, their counts stay in the cache; a GPU needs enough to fill it.
VOXELS_PER_CHUNK, VOXELS_PER_GPU_CHUNK = 2**13, 2**19

Kernel = Literal["gaussian", "bspline"]
Counts = Callable[[Tensor], Tensor]


def gaussian_counts(bins: int, sigma: float) -> Counts:
    """Return a function from values (...) in [0, 1] to their counts (..., bins), of sum 1, under a Gaussian
    kernel of `sigma` bins."""

    def counts(x: Tensor) -> Tensor:
        # Of -(x - bin)^2, the softmax leaves out x^2: what is left is linear in x, so one pass each way.
        center = torch.arange(bins, device=x.device, dtype=x.dtype) - (bins - 1) / 2
        value = (x[..., None] - 0.5) * (bins - 1)
        exponent = torch.addcmul(-center.square() / (2 * sigma**2), value, center / sigma**2)
        return torch.softmax(exponent, dim=-1)

    return counts


def bspline_counts(bins: int) -> Counts:
    """Return a function from values (...) in [0, 1] to their counts (..., bins) under a cubic B-spline.

    Two bins at each end are left for the spline's support, so the counts have sum 1 and the value as their
    mean.
    """

    def counts(x: Tensor) -> Tensor:
        distance = x[..., None] * (bins - 5) + 2 - torch.arange(bins, device=x.device, dtype=x.dtype)
        t = distance.abs()
        near, far = 2 / 3 - t.square() + t**3 / 2, (2 - t).clamp(min=0) ** 3 / 6
        return torch.where(t < 1, near, far)

    return counts


def kernel_counts(kernel: Kernel, bins: int, sigma: float) -> Counts:
    """Return the counts under a kernel by name; raises `ValueError` for an unknown one."""
    kernels = {"gaussian": lambda: gaussian_counts(bins, sigma), "bspline": lambda: bspline_counts(bins)}
    if kernel not in kernels:
        raise ValueError(f"kernel: {' or '.join(kernels)}, not {kernel!r}")
    return kernels[kernel]()


def rescale(x: Tensor, mask: Tensor | None) -> Tensor:
    """Scale images (B, C, *shape) from their range in the mask to [0, 1], clamped outside the mask."""
    low, high = (
        (x if mask is None else torch.where(mask > 0, x, outside)).flatten(1)
        for outside in (torch.inf, -torch.inf)
    )
    least, greatest = low.amin(1), high.amax(1)
    known = (greatest > least).view(-1, *[1] * (x.ndim - 1))  # false for a constant image, or an empty mask
    least, greatest = (v.view(-1, *[1] * (x.ndim - 1)) for v in (least, greatest))
    safe_least = torch.where(known, least, 0)
    return ((x - safe_least) / torch.where(known, greatest - safe_least, 1)).clamp(0, 1)


def flatten(fixed: Tensor, moved: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Flatten images (B, C, *shape) and the mask to values and weights (B, C * voxels).

    The weights have sum 1, or 0 for an empty mask.
    """
    weight = torch.ones_like(fixed[:, :1]) if mask is None else mask
    weight = weight.expand_as(fixed).flatten(1)
    return fixed.flatten(1), moved.flatten(1), weight / weight.sum(1, keepdim=True).clamp(min=TINY)


def _chunk_voxels(values: Tensor) -> int:
    """The number of voxels to count at once, on the device of `values`."""
    return at_once(values.device, VOXELS_PER_CHUNK, VOXELS_PER_GPU_CHUNK)


def sum_over_chunks(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """Sum `function` over chunks of the last axis of `tensors` (B, N)."""
    size = max(_chunk_voxels(tensors[0]) // len(tensors[0]), 1)
    parts = zip(*(t.split(size, dim=-1) for t in tensors), strict=True)
    return sum(
        (checkpoint(function, *part) for part in parts),
        torch.zeros((), device=tensors[0].device, dtype=tensors[0].dtype),
    )


def joint_histogram(counts: Counts) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Return a function from two images and weights, each (B, N), to joint counts (B, bins, bins)."""
    return lambda a, b, weight: (counts(a) * weight[..., None]).transpose(-1, -2) @ counts(b)


def average_over_patches(
    function: Callable[[Tensor, Tensor], Tensor],
    fixed: Tensor,
    moved: Tensor,
    mask: Tensor | None,
    patch: int,
    shift: bool,
) -> Tensor:
    """Average a function of patches over the patches inside image and mask.

    Args:
        function: From P patches of N voxels of either image, (P, N) and (P, N), to values (P,).
        fixed: Images (B, C, *shape).
        moved: Images of the same shape.
        mask: (B, 1, *shape), or None.
        patch: Voxels of a patch along each axis; patches stand side by side.
        shift: Use patches that start half a patch later on every axis too.

    Returns:
        Means (B,); 0 where no patch is inside.
    """
    total, number = fixed.new_zeros(len(fixed)), fixed.new_zeros(len(fixed))
    for start in (0, patch // 2) if shift else (0,):
        a, b = (_patches(x, patch, start) for x in (fixed, moved))
        if a.numel() == 0:
            continue
        channels = a.shape[1] * a.shape[2]
        size = max(_chunk_voxels(a) // a.shape[-1], 1)
        chunks = zip(*(x.flatten(0, 2).split(size) for x in (a, b)), strict=True)
        values = torch.cat([checkpoint(function, *chunk) for chunk in chunks]).view(len(fixed), channels)
        if mask is None:
            inside = torch.ones_like(values)
        else:
            covered = (_patches(mask, patch, start) > 0.5).all(-1)
            inside = covered.expand(-1, a.shape[1], -1).flatten(1).to(values)
        total, number = total + (values * inside).sum(1), number + inside.sum(1)
    return total / number.clamp(min=1)


def _patches(x: Tensor, patch: int, start: int) -> Tensor:
    """Cut images (B, C, *shape) into patches side by side, (B, C, patches, voxels of a patch).

    They start at voxel `start` of each axis that is longer than a patch; the rest at the far ends isn't used.
    """
    for axis in range(2, x.ndim):
        width = min(patch, x.shape[axis])
        begin = start if x.shape[axis] > patch else 0
        count = (x.shape[axis] - begin) // width
        x = x.narrow(axis, begin, count * width)
    ndim = x.ndim - 2
    for axis in range(2, 2 + ndim):
        width = min(patch, x.shape[axis])
        x = x.unfold(axis, width, width) if width else x.unsqueeze(-1)
    return x.flatten(2, 1 + ndim).flatten(3)
