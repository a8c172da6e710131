"""The kind of entry that SIMILARITY holds, and what all similarities use: weighted means, standardization."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from atlasmith.core.choices import Choice

Reduction = Literal["mean", "none"]
TINY = 1e-12  # below any variance of interest; keeps 0 / 0 at 0
CONSTANT_VARIANCE = 1e-10  # of the mean square of an image, up to which the image counts as constant


@dataclass(frozen=True)
class Similarity(Choice[Tensor]):
    """Declare a similarity of two images or label maps: the lower, the more similar.

    The function takes `fixed` and `moved` (B, C, *shape), 2-D or 3-D, a `mask` (B, 1, *shape) or None, and
    its settings, and returns a value (B,) for each subject, which depends on no other subject of the batch
    and on nothing outside the mask. Value and gradient are finite also where the mask is empty.

    Example:
        >>> @Similarity.declare("Largest difference, for images without noise.")
        ... def largest(fixed, moved, mask=None):
        ...     difference = (fixed - moved).abs()
        ...     return (difference if mask is None else difference * mask).flatten(1).amax(1)
        >>> largest(torch.zeros(2, 1, 4, 4), torch.ones(2, 1, 4, 4), reduction="none")
        tensor([1., 1.])
    """

    def __call__(
        self,
        fixed: Tensor,
        moved: Tensor,
        mask: Tensor | None = None,
        *,
        reduction: Reduction = "mean",
        **settings: Any,
    ) -> Tensor:
        """Compute the similarity in float32 at least, also under autocast.

        Args:
            fixed: Images (B, C, *shape).
            moved: Images of the same shape.
            mask: (B, 1, *shape), 1 where both are known; None: everywhere.
            reduction: `mean` over the batch, or `none`.
            **settings: Those of the similarity.

        Returns:
            A scalar, or with `reduction` `none` a value (B,) for each subject.

        Raises:
            ValueError: If the shapes differ, or the reduction is unknown.
        """
        if reduction not in ("mean", "none"):
            raise ValueError(f"reduction: 'mean' or 'none', not {reduction!r}")
        if fixed.shape != moved.shape:
            raise ValueError(f"images of one shape are needed, not {(*fixed.shape,)} and {(*moved.shape,)}")
        double = torch.float64 in (fixed.dtype, moved.dtype)
        dtype = torch.float64 if double else torch.float32
        with torch.autocast(fixed.device.type, enabled=False):
            values = self.function(
                fixed.to(dtype), moved.to(dtype), None if mask is None else mask.to(dtype), **settings
            )
        return values.mean() if reduction == "mean" else values


def average(x: Tensor, weight: Tensor | None = None) -> Tensor:
    """Average over channels and voxels, weighted.

    Args:
        x: Values (B, C, *shape).
        weight: Weights (B, 1, *shape); None: all equal.

    Returns:
        Means (B,); 0 where the sum of the weights is 0.
    """
    if weight is None:
        return x.flatten(1).mean(1)
    return (x * weight).flatten(1).sum(1) / (weight.flatten(1).sum(1) * x.shape[1]).clamp(min=TINY)


def standardize(x: Tensor, mask: Tensor | None = None) -> Tensor:
    """Standardize each subject's image to mean 0 and variance 1 over the mask.

    An image that varies by less than a hundred-thousandth of its values counts as constant, and becomes about
    0.

    Args:
        x: Images (B, C, *shape).
        mask: (B, 1, *shape), or None.

    Returns:
        The standardized images (B, C, *shape).
    """
    ones = [1] * (x.ndim - 1)
    centered = x - average(x, mask).view(-1, *ones)
    least = CONSTANT_VARIANCE * average(x.square(), mask) + TINY
    variance = torch.maximum(average(centered.square(), mask), least)
    return centered / variance.sqrt().view(-1, *ones)
