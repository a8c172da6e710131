"""Separable filters of tensors (B, C, *shape)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def box_mean(x: Tensor, window: Sequence[int], dilation: int = 1) -> Tensor:
    """Average over the windows that lie inside the image.

    Args:
        x: Images (B, C, *shape).
        window: Voxels of the window along each axis.
        dilation: Voxels from one of the window's voxels to the next.

    Returns:
        Means (B, C, *inside), of size shape - dilation (window - 1) along each axis.
    """
    result: Tensor = _BoxSum.apply(x, tuple(window), dilation)
    return result / math.prod(window)


def _box_sum(x: Tensor, window: Sequence[int], dilation: int) -> Tensor:
    """Sum over windows, by sums of doubling width: log2(window) additions along an axis, and, unlike with a
    summed-area table, no cancellation."""
    for axis, width in enumerate(window, start=2):
        length = x.shape[axis] - dilation * (width - 1)
        total, offset, span, part = None, 0, dilation, x
        while True:
            if width % 2:
                piece = part.narrow(axis, offset, length)
                total = piece if total is None else total + piece
                offset += span
            width //= 2
            if not width:
                break
            left = part.shape[axis] - span
            part = part.narrow(axis, 0, left) + part.narrow(axis, span, left)
            span *= 2
        assert total is not None
        x = total
    return x


class _BoxSum(torch.autograd.Function):
    """`_box_sum` with its gradient, a sum over windows too; autograd's own is a chain of padded copies."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, window: tuple[int, ...], dilation: int) -> Tensor:
        ctx.window, ctx.dilation = window, dilation
        return _box_sum(x, window, dilation).contiguous()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        margin = [ctx.dilation * (width - 1) for width in reversed(ctx.window) for _ in range(2)]
        return _box_sum(F.pad(gradients[0], margin), ctx.window, ctx.dilation), None, None


def _apply(x: Tensor, axis: int, matrix: Tensor) -> Tensor:
    """Multiply by a matrix (m, n) along `axis` of size n."""
    return (x.movedim(axis, -1) @ matrix.T).movedim(-1, axis)


def _kernel(sigma: float, taps: int, like: Tensor) -> Tensor:
    """Sample a Gaussian at `taps` voxels, normalized to sum 1."""
    position = torch.arange(taps, device=like.device, dtype=like.dtype) - (taps - 1) / 2
    kernel = torch.exp(-position.square() / (2 * sigma**2))
    return kernel / kernel.sum()


def gaussian_mean(x: Tensor, window: Sequence[int], sigma: float) -> Tensor:
    """Average with Gaussian weights over the windows that lie inside the image.

    Args:
        x: Images (B, C, *shape).
        window: Voxels of the window along each axis.
        sigma: Standard deviation of the weights, voxels.

    Returns:
        Means (B, C, *inside), of size shape - window + 1 along each axis.
    """
    # A banded matrix for each axis: on a CPU a matrix product is faster than a narrow convolution.
    for axis, width in enumerate(window, start=2):
        size = x.shape[axis]
        matrix = x.new_zeros(size - width + 1, size)
        index = torch.arange(size - width + 1, device=x.device)[:, None]
        matrix[index, index + torch.arange(width, device=x.device)] = _kernel(sigma, width, x)
        x = _apply(x, axis, matrix)
    return x


def gaussian_blur(x: Tensor, sigma: float, derivative: Sequence[int] = ()) -> Tensor:
    """Convolve with a Gaussian or its derivatives, on the same grid, with zeros outside.

    Args:
        x: Images (B, C, *shape).
        sigma: Standard deviation of the Gaussian, voxels.
        derivative: Tensor axes (2 and up) along which the Gaussian is differentiated; an axis that is given
            twice stands for the second derivative.

    Returns:
        The filtered images (B, C, *shape).
    """
    for axis in range(2, x.ndim):
        index = torch.arange(x.shape[axis], device=x.device, dtype=x.dtype)
        distance = (index[:, None] - index) / sigma
        matrix = torch.exp(-distance.square() / 2) / (sigma * (2 * torch.pi) ** 0.5)
        order = list(derivative).count(axis)
        if order == 1:
            matrix = -distance / sigma * matrix
        elif order == 2:
            matrix = (distance.square() - 1) / sigma**2 * matrix
        x = _apply(x, axis, matrix)
    return x
