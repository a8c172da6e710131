"""Correlation of two images' features at every displacement within reach: a cost volume."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def correlate(fixed: Tensor, moved: Tensor, reach: int, stride: int = 1) -> Tensor:
    """Correlate features with those around each voxel: the mean over channels of fixed(x) moved(x + offset).

    (The correlation layer of FlowNetC, Dosovitskiy et al. 2015, doi:10.1109/ICCV.2015.316, on single voxels.)
    For the gradient it keeps the two features alone. A temporary is as large as one of them.

    Args:
        fixed: (B, C, *shape), 2-D or 3-D.
        moved: (B, C, *shape); zero outside.
        reach: Number of offsets on each side along each axis.
        stride: Distance of neighboring offsets, voxels.

    Returns:
        (B, (2 * reach + 1)^d, *shape), in single precision at least: a map for each of `correlation_offsets`.

    Example:
        >>> fixed = torch.zeros(1, 1, 5, 5)
        >>> fixed[..., 2, 2] = 1
        >>> best = correlate(fixed, fixed.roll(1, dims=2), reach=1)[0, :, 2, 2].argmax()
        >>> correlation_offsets(2, reach=1)[best]
        tensor([1., 0.])
    """
    # For the gradient, a sum over as many products as offsets, which half precision would round.
    dtype = torch.promote_types(torch.promote_types(fixed.dtype, moved.dtype), torch.float32)
    result: Tensor = _Correlation.apply(fixed.to(dtype), moved.to(dtype), reach, stride)
    return result


def correlation_offsets(ndim: int, reach: int, stride: int = 1, device: torch.device | str = "cpu") -> Tensor:
    """Return the offsets ((2 * reach + 1)^d, d), voxels, of the maps of `correlate`, last axis fastest."""
    axis = torch.arange(-reach, reach + 1, device=device, dtype=torch.float32) * stride
    return torch.cartesian_prod(*[axis] * ndim)


def _shifted(padded: Tensor, shape: Sequence[int], reach: int, stride: int) -> Iterator[Tensor]:
    """Views (B, C, *shape) of padded features, one for each offset."""
    for starts in itertools.product(range(0, 2 * reach * stride + 1, stride), repeat=len(shape)):
        view = padded
        for axis, (start, n) in enumerate(zip(starts, shape, strict=True), start=2):
            view = view.narrow(axis, start, n)
        yield view


class _Correlation(torch.autograd.Function):
    """`correlate` with its gradient: autograd's own would keep a product for each offset."""

    @staticmethod
    def forward(ctx: Any, fixed: Tensor, moved: Tensor, reach: int, stride: int) -> Tensor:
        ctx.save_for_backward(fixed, moved)
        ctx.reach, ctx.stride = reach, stride
        shape = fixed.shape[2:]
        padded = F.pad(moved, [reach * stride] * (2 * len(shape)))
        result = fixed.new_empty(len(fixed), (2 * reach + 1) ** len(shape), *shape)
        for k, view in enumerate(_shifted(padded, shape, reach, stride)):
            result[:, k] = (fixed * view).mean(1)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        fixed, moved = ctx.saved_tensors
        margin, shape = ctx.reach * ctx.stride, fixed.shape[2:]
        padded = F.pad(moved, [margin] * (2 * len(shape)))
        by_fixed, by_padded = torch.zeros_like(fixed), torch.zeros_like(padded)
        sources = _shifted(padded, shape, ctx.reach, ctx.stride)
        targets = _shifted(by_padded, shape, ctx.reach, ctx.stride)
        for k, (source, target) in enumerate(zip(sources, targets, strict=True)):
            weight = gradient[:, k : k + 1] / fixed.shape[1]
            by_fixed.addcmul_(weight, source)
            target.addcmul_(weight, fixed)
        by_moved = by_padded
        for axis, n in enumerate(shape, start=2):
            by_moved = by_moved.narrow(axis, margin, n)
        return by_fixed, by_moved, None, None
