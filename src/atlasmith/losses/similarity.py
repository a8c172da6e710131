"""Similarity of two images or label maps (B, C, *shape), 2-D and 3-D: a scalar, 0 at best, else above.

Sums are kept in float32 at least, also under autocast.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

FLAT = 1e-3  # variance of a window without structure, for intensities of about 0 to 1: 3 % of the range


def _precise(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def mse(fixed: Tensor, moved: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared difference, over `mask` (B, 1, *shape) where given."""
    difference = (_precise(fixed) - _precise(moved)).square()
    return difference.mean() if mask is None else (difference * mask).sum() / mask.sum().clamp(min=1)


def box_mean(x: Tensor, window: Sequence[int]) -> Tensor:
    """Mean over the windows that lie inside: (B, C, *shape) to (B, C, *(shape - window + 1)).

    Separable shifted sums: on CPU some twenty times faster than a convolution with ones, and, unlike a
    summed-area table, free of cancellation.
    """
    for axis, width in enumerate(window, start=2):
        length = x.shape[axis] - width + 1
        total = x.narrow(axis, 0, length)
        for shift in range(1, width):
            total = total + x.narrow(axis, shift, length)
        x = total / width
    return x


def lncc(
    fixed: Tensor, moved: Tensor, mask: Tensor | None = None, window: int = 9, eps: float = 1e-5
) -> Tensor:
    """1 - mean squared local correlation over `window` voxels an axis (Avants et al. 2008,
    doi:10.1016/j.media.2007.06.004), over the windows that lie inside the image, and wholly inside `mask`
    (B, 1, *shape) where given.

    For intensities of about 0 to 1. `eps` is added to the product of the variances, so a window that is flat
    in one image counts as uncorrelated; one that is flat in both says nothing and doesn't count, or the size
    of the background would set the weight of the regularisers. Axes shorter than the window use their whole
    length. No window that counts gives 1.
    """
    fixed, moved = _precise(fixed), _precise(moved)
    widths = [min(window, n) for n in fixed.shape[2:]]
    stack = torch.cat([fixed, moved, fixed * fixed, moved * moved, fixed * moved], dim=1)
    mean_f, mean_m, mean_ff, mean_mm, mean_fm = box_mean(stack, widths).chunk(5, dim=1)
    cross = mean_fm - mean_f * mean_m
    variance_f = (mean_ff - mean_f * mean_f).clamp(min=0)
    variance_m = (mean_mm - mean_m * mean_m).clamp(min=0)
    correlation = cross * cross / (variance_f * variance_m + eps)
    counts = (variance_f > FLAT) | (variance_m > FLAT)
    if mask is not None:
        counts = counts & (box_mean(mask, widths) > 0.99)
    return 1 - (correlation * counts).sum() / counts.sum().clamp(min=1)


def dice(fixed: Tensor, moved: Tensor, mask: Tensor | None = None, smooth: float = 1e-5) -> Tensor:
    """1 - soft Dice (Milletari et al. 2016, doi:10.1109/3DV.2016.79), the mean over images and channels.

    Channels are label probabilities; one that is empty in both counts as perfect.
    """
    if mask is not None:
        fixed, moved = fixed * mask, moved * mask
    fixed, moved = _precise(fixed).flatten(2), _precise(moved).flatten(2)
    overlap = (fixed * moved).sum(-1)
    total = fixed.square().sum(-1) + moved.square().sum(-1)
    return 1 - ((2 * overlap + smooth) / (total + smooth)).mean()
