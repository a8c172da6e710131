"""What all similarity measures share: precision, masks and reduction."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

Reduction = Literal["mean", "none"]
TINY = 1e-12  # below any variance of interest; keeps 0 / 0 at 0


class Measure(Protocol):
    """fixed, moved (B, C, *shape), mask (B, 1, *shape) or None: a scalar, or (B,) with `reduction="none"`."""

    __name__: str

    def __call__(
        self,
        fixed: Tensor,
        moved: Tensor,
        mask: Tensor | None = None,
        *,
        reduction: Reduction = "mean",
        **parameters: Any,
    ) -> Tensor: ...


def measure(function: Callable[..., Tensor]) -> Measure:
    """Make a measure of a function that gives a value a subject (B,).

    Its sums are kept in float32 at least, also under autocast; a mask always comes in the images' type.
    """

    @functools.wraps(function)
    def wrapped(
        fixed: Tensor,
        moved: Tensor,
        mask: Tensor | None = None,
        *,
        reduction: Reduction = "mean",
        **parameters: Any,
    ) -> Tensor:
        if reduction not in ("mean", "none"):
            raise ValueError(f"reduction: 'mean' or 'none', not {reduction!r}")
        if fixed.shape != moved.shape:
            raise ValueError(f"images of one shape are needed, not {(*fixed.shape,)} and {(*moved.shape,)}")
        double = torch.float64 in (fixed.dtype, moved.dtype)
        dtype = torch.float64 if double else torch.float32
        with torch.autocast(fixed.device.type, enabled=False):
            values = function(
                fixed.to(dtype), moved.to(dtype), None if mask is None else mask.to(dtype), **parameters
            )
        return values.mean() if reduction == "mean" else values

    return wrapped


def average(x: Tensor, weight: Tensor | None = None) -> Tensor:
    """Means (B,) of `x` (B, C, *shape), weighted by `weight` (B, 1, *shape); 0 without any weight."""
    if weight is None:
        return x.flatten(1).mean(1)
    return (x * weight).flatten(1).sum(1) / (weight.flatten(1).sum(1) * x.shape[1]).clamp(min=TINY)


def standardize(x: Tensor, mask: Tensor | None = None) -> Tensor:
    """`x` (B, C, *shape) with mean 0 and variance 1 over the mask, a subject at a time.

    An image that varies by less than a hundred-thousandth of its values is constant, and becomes about 0.
    """
    ones = [1] * (x.ndim - 1)
    centered = x - average(x, mask).view(-1, *ones)
    least = 1e-10 * average(x.square(), mask) + TINY
    variance = torch.maximum(average(centered.square(), mask), least)
    return centered / variance.sqrt().view(-1, *ones)
