"""The mean squared correlation in windows, with an explicit gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from atlasmith.losses.similarity.base import CONSTANT_VARIANCE, TINY
from atlasmith.losses.similarity.filters import BoxWindows

# Relative to the variance of the whole image, so that gain and offset change nothing. A window counts where
# the variance of either image is above FLAT_VARIANCE. VARIANCE_FLOOR is added to the product of both, which
# is noise where one of them is flat.
FLAT_VARIANCE = 0.01
VARIANCE_FLOOR = 1e-3


def local_correlation(fixed: Tensor, moved: Tensor, mask: Tensor | None, windows: BoxWindows) -> Tensor:
    """Average cov^2 / (var f var m) over the windows inside the mask that aren't flat in both images.

    Args:
        fixed: Images (B, C, *shape).
        moved: Images of the same shape.
        mask: (B, 1, *shape), 1 where both are known, else 0; None: everywhere.
        windows: The windows.

    Returns:
        Means (B,); 0 without any window that counts.
    """
    if not torch.is_grad_enabled():
        fixed, moved = fixed.detach(), moved.detach()
    result: Tensor = _LocalCorrelation.apply(fixed, moved, mask, windows)
    return result


class _LocalCorrelation(torch.autograd.Function):
    """`local_correlation`, with its gradient computed at once: nothing else is kept for the backward pass.

    With sums S over windows of weight n, let v_f = S(ff) - S(f)^2 / n, v_m likewise, c = S(fm) - S(f) S(m) /
    n, e the floor, and q = c / (v_f v_m + e). The value is the mean of c q. From each window, a voxel of m
    gets the gradient 2 q (f - S(f) / n) - 2 q^2 v_f (m - S(m) / n), and a part by the image's variance in e.
    """

    @staticmethod
    def forward(ctx: Any, fixed: Tensor, moved: Tensor, mask: Tensor | None, windows: BoxWindows) -> Tensor:
        n = windows.weight
        f, m = _Image(fixed, mask, windows), _Image(moved, mask, windows)
        covariance = windows.sums(f.values * m.values).addcmul_(f.sums, m.sums, value=-1 / n)
        floor = VARIANCE_FLOOR * n**2 * f.variance * m.variance
        # By rounding, a product may be below 0.
        denominator = torch.addcmul(floor, f.variances, m.variances)
        torch.maximum(denominator, floor, out=denominator)
        counts = f.varies | m.varies
        if mask is not None:
            counts = counts & windows.inside(mask > 0.5)
        number = counts.flatten(1).sum(1).clamp(min=1)
        q = covariance / torch.where(counts, denominator, torch.inf)
        value = covariance.mul_(q).flatten(1).sum(1) / number
        del denominator, counts, covariance
        if any(ctx.needs_input_grad):
            shared = q, q * q, windows.spread(q, fixed.shape[2:]), windows
            ctx.save_for_backward(
                number,
                _gradient(f, m, *shared) if ctx.needs_input_grad[0] else None,
                _gradient(m, f, *shared) if ctx.needs_input_grad[1] else None,
            )
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        number, *gradients = ctx.saved_tensors
        factor = -2 * upstream[0] / number
        return (*(g if g is None else _per_image(factor, g) * g for g in gradients), None, None)


class _Image:
    """What is needed of either image.

    Attributes:
        values: Less the image's mean, so that squares lose no digits, and 0 outside the mask (B, C, *shape).
        variance: Of the whole image (B, 1, ...), or what counts as constant.
        slope: The derivative of `variance` by `values`, divided by twice `values` (B, 1, ...).
        sums: S of the values (B, C, *windows).
        variances: v, S of the squares about a window's mean (B, C, *windows).
        varies: Whether a window isn't flat (B, C, *windows).
    """

    def __init__(self, image: Tensor, mask: Tensor | None, windows: BoxWindows) -> None:
        if mask is None:
            volume = image.new_full((len(image),), image[0].numel())
            mean = image.flatten(1).mean(1)
            self.values = image - _per_image(mean, image)
        else:
            volume = mask.flatten(1).sum(1).mul_(image.shape[1]).clamp_(min=TINY)
            known = image * mask
            mean = known.flatten(1).sum(1) / volume
            self.values = known.addcmul_(mask, _per_image(mean, image), value=-1)
        squares = self.values * self.values
        variance = squares.flatten(1).sum(1) / volume
        constant = CONSTANT_VARIANCE * (variance + mean.square()) + TINY
        self.variance = _per_image(torch.maximum(variance, constant), image)
        self.slope = _per_image((variance > constant) / volume, image)
        self.sums = windows.sums(self.values)
        self.variances = windows.sums(squares).addcmul_(self.sums, self.sums, value=-1 / windows.weight)
        self.varies = self.variances > FLAT_VARIANCE * windows.weight * self.variance


def _gradient(
    image: _Image, other: _Image, q: Tensor, squares: Tensor, spread_q: Tensor, windows: BoxWindows
) -> Tensor:
    """Minus half the gradient (B, C, *shape) of the sum of c q with respect to the values of `image`.

    Args:
        image: Of the image.
        other: Of the other one.
        q: (B, C, *windows), 0 where a window doesn't count.
        squares: q^2.
        spread_q: `q` summed at each voxel over the windows that hold it (B, C, *shape).
        windows: The windows.
    """
    shape, n = image.values.shape[2:], windows.weight
    weights = squares * other.variances
    offsets = (q * other.sums).addcmul_(weights, image.sums, value=-1)
    by_floor = VARIANCE_FLOOR * n**2 * other.variance * image.slope * _per_image(squares.flatten(1).sum(1), q)
    result = windows.spread(weights, shape).add_(by_floor).mul_(image.values)
    del weights
    result.addcmul_(other.values, spread_q, value=-1)
    return result.add_(windows.spread(offsets, shape), alpha=1 / n)


def _per_image(value: Tensor, like: Tensor) -> Tensor:
    """Values (B,) in a shape that broadcasts with `like` (B, ...)."""
    return value.view(-1, *[1] * (like.ndim - 1))
