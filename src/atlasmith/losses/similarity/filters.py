"""Separable filters of tensors (B, C, *shape)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from atlasmith.core.sampling import banded_matrix, gaussian_kernel, multiply_along


@dataclass(frozen=True)
class BoxWindows:
    """Windows of equal weights, at the positions where they lie inside the image.

    Args:
        widths: Voxels of a window along each axis.
        dilation: Voxels from one of a window's voxels to the next.
        steps: Voxels from one window to the next along each axis; empty: 1.
    """

    widths: Sequence[int]
    dilation: int = 1
    steps: Sequence[int] = ()

    @property
    def weight(self) -> float:
        """The sum of a window's weights."""
        return math.prod(self.widths)

    def sums(self, x: Tensor) -> Tensor:
        """Sum images (B, C, *shape) over each window, to (B, C, *windows)."""
        # One pass for each axis. Unlike running sums along it, sums of few values lose no digits.
        for axis, width, step in self._axes():
            # A CPU sums eight neighbors in a row or more slowly: rather some, then some of their sums.
            contiguous = axis == x.ndim - 1 and self.dilation == 1 and x.device.type == "cpu"
            part = max(n for n in range(1, 8) if width % n == 0) if contiguous and width > 7 else 1
            x = _sum_along(x, axis, part, self.dilation)
            x = _sum_along(x, axis, width // part, self.dilation * part, step)
        return x

    def spread(self, values: Tensor, shape: Sequence[int]) -> Tensor:
        """Sum values (B, C, *windows) at each voxel over the windows that hold it: the adjoint of `sums`."""
        margins = [self.dilation * (width - 1) for width in self.widths]
        sizes = [n + margin for n, margin in zip(shape, margins, strict=True)]
        padded = values.new_zeros(*values.shape[:2], *sizes)
        inner = padded
        for (axis, _, step), margin in zip(self._axes(), margins, strict=True):
            inner = _every(inner.narrow(axis, margin, sizes[axis - 2] - 2 * margin), axis, step)
        inner.copy_(values)
        return BoxWindows(self.widths, self.dilation).sums(padded)

    def inside(self, mask: Tensor) -> Tensor:
        """Tell which windows lie with all their voxels inside a boolean mask (B, 1, *shape)."""
        for axis, width, step in self._axes():
            span = 1
            while span < width:
                shift = self.dilation * min(span, width - span)
                size = mask.shape[axis] - shift
                mask = mask.narrow(axis, 0, size) & mask.narrow(axis, shift, size)
                span = min(2 * span, width)
            mask = _every(mask, axis, step)
        return mask

    def _axes(self) -> Iterator[tuple[int, int, int]]:
        """For each axis of space its index in a tensor, the window's width and the step."""
        steps = self.steps or [1] * len(self.widths)
        return zip(range(2, 2 + len(steps)), self.widths, steps, strict=True)


def _sum_along(x: Tensor, axis: int, width: int, dilation: int, step: int = 1) -> Tensor:
    """Sum `width` values, `dilation` apart, at every `step`th index along an axis."""
    if width == step == 1:
        return x
    return x.unfold(axis, dilation * (width - 1) + 1, step)[..., ::dilation].sum(-1)


def _every(x: Tensor, axis: int, step: int) -> Tensor:
    """Take every `step`th index along an axis."""
    return x[(slice(None),) * axis + (slice(None, None, step),)]


@dataclass(frozen=True)
class GaussianWindows(BoxWindows):
    """Windows with the weights of a Gaussian, neither dilated nor apart.

    Args:
        sigma: Standard deviation of the weights, voxels.
    """

    sigma: float = 1.0

    @property
    def weight(self) -> float:
        """The sum of a window's weights."""
        return 1.0

    def sums(self, x: Tensor) -> Tensor:
        """Sum images (B, C, *shape), weighted, over each window, to (B, C, *windows)."""
        for axis, width, _ in self._axes():
            x = multiply_along(x, axis, self._matrix(width, x.shape[axis], x))
        return x

    def spread(self, values: Tensor, shape: Sequence[int]) -> Tensor:
        """Sum values (B, C, *windows), weighted, at each voxel over the windows that hold it."""
        for axis, width, _ in self._axes():
            values = multiply_along(values, axis, self._matrix(width, shape[axis - 2], values).T)
        return values

    def _matrix(self, width: int, size: int, like: Tensor) -> Tensor:
        """A banded matrix (windows, size): on a CPU its product is faster than a narrow convolution."""
        first = torch.arange(size - width + 1, device=like.device)[:, None]
        columns = first + torch.arange(width, device=like.device)
        return banded_matrix(gaussian_kernel(self.sigma, width, like), columns, size)


def box_mean(x: Tensor, window: Sequence[int]) -> Tensor:
    """Average over the windows that lie inside the image.

    Args:
        x: Images (B, C, *shape).
        window: Voxels of the window along each axis.

    Returns:
        Means (B, C, *inside), of size shape - window + 1 along each axis.
    """
    result: Tensor = _BoxMean.apply(x, tuple(window))
    return result


class _BoxMean(torch.autograd.Function):
    """The mean over windows with its gradient, which autograd would compute window by window."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, window: tuple[int, ...]) -> Tensor:
        ctx.windows, ctx.shape = BoxWindows(window), x.shape[2:]
        return ctx.windows.sums(x) / ctx.windows.weight

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return ctx.windows.spread(gradients[0], ctx.shape) / ctx.windows.weight, None


def gaussian_mean(x: Tensor, window: Sequence[int], sigma: float) -> Tensor:
    """Average with Gaussian weights over the windows that lie inside the image.

    Args:
        x: Images (B, C, *shape).
        window: Voxels of the window along each axis.
        sigma: Standard deviation of the weights, voxels.

    Returns:
        Means (B, C, *inside), of size shape - window + 1 along each axis.
    """
    return GaussianWindows(window, sigma=sigma).sums(x)


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
        x = multiply_along(x, axis, matrix)
    return x
