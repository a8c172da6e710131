"""Separable filters (B, C, *shape)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def box_mean(x: Tensor, window: Sequence[int], dilation: int = 1) -> Tensor:
    """Means over the windows of `window` voxels, `dilation` apart, that lie inside: (B, C, *inside).

    Sums of doubling width: an axis costs log2(window) additions, and, unlike with a summed-area table, no
    digits are lost to cancellation.
    """
    for axis, width in enumerate(window, start=2):
        length = x.shape[axis] - dilation * (width - 1)
        total, offset, span, part, left = None, 0, dilation, x, width
        while True:
            if left % 2:
                piece = part.narrow(axis, offset, length)
                total = piece if total is None else total + piece
                offset += span
            left //= 2
            if not left:
                break
            part = part.narrow(axis, 0, part.shape[axis] - span) + part.narrow(
                axis, span, part.shape[axis] - span
            )
            span *= 2
        assert total is not None
        x = total / width
    return x


def _apply(x: Tensor, axis: int, matrix: Tensor) -> Tensor:
    """A matrix (m, n) applied along `axis` of size n."""
    return (x.movedim(axis, -1) @ matrix.T).movedim(-1, axis)


def _kernel(sigma: float, taps: int, like: Tensor) -> Tensor:
    """A Gaussian (taps,) of sum 1."""
    position = torch.arange(taps, device=like.device, dtype=like.dtype) - (taps - 1) / 2
    kernel = torch.exp(-position.square() / (2 * sigma**2))
    return kernel / kernel.sum()


def gaussian_mean(x: Tensor, window: Sequence[int], sigma: float) -> Tensor:
    """Gaussian means over the windows of `window` voxels that lie inside: (B, C, *inside).

    A banded matrix an axis: on CPU a matrix product outruns a narrow convolution.
    """
    for axis, width in enumerate(window, start=2):
        size = x.shape[axis]
        matrix = x.new_zeros(size - width + 1, size)
        index = torch.arange(size - width + 1, device=x.device)[:, None]
        matrix[index, index + torch.arange(width, device=x.device)] = _kernel(sigma, width, x)
        x = _apply(x, axis, matrix)
    return x


def gaussian_blur(x: Tensor, sigma: float, derivative: Sequence[int] = ()) -> Tensor:
    """`x` blurred with `sigma` voxels, on its own grid, zero outside; differentiated in the Gaussian along
    each axis (2 and up) in `derivative`, which may name an axis twice."""
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
