"""Overlap of label probabilities, one channel for each label."""

from __future__ import annotations

import torch
from torch import Tensor

from atlasmith.losses.similarity.base import Similarity
from atlasmith.losses.similarity.filters import gaussian_blur


def _soft_dice(fixed: Tensor, moved: Tensor, smooth: float) -> Tensor:
    """1 - soft Dice (B,), the mean over channels."""
    overlap = (fixed * moved).flatten(2).sum(-1)
    total = (fixed.square() + moved.square()).flatten(2).sum(-1)
    return 1 - ((2 * overlap + smooth) / (total + smooth)).mean(1)


@Similarity.declare("1 - soft Dice, the mean over labels. For label probabilities.")
def dice(fixed: Tensor, moved: Tensor, mask: Tensor | None = None, smooth: float = 1e-5) -> Tensor:
    """Compute 1 - soft Dice, the mean over channels: 0 at best.

    2 sum pq / (sum p^2 + sum q^2) for each channel (Milletari et al. 2016, doi:10.1109/3DV.2016.79).

    Args:
        smooth: Added to numerator and denominator, so that a channel that is empty in both counts as perfect.
    """
    if mask is not None:
        fixed, moved = fixed * mask, moved * mask
    return _soft_dice(fixed, moved, smooth)


@Similarity.declare("`dice` of labels blurred by 0, 1, 2, 4, ... voxels. For labels that don't overlap yet.")
def dice_multiscale(
    fixed: Tensor, moved: Tensor, mask: Tensor | None = None, scales: int = 6, smooth: float = 1e-5
) -> Tensor:
    """Compute the mean of `dice` over labels blurred to several scales (Hu et al. 2018,
    doi:10.1016/j.media.2018.07.002): it has a gradient also where labels don't overlap yet.

    Args:
        scales: Number of scales: the labels as they are, and blurred by 1, 2, 4, ... voxels.
        smooth: As in `dice`.
    """
    if mask is not None:
        fixed, moved = fixed * mask, moved * mask
    values = [_soft_dice(fixed, moved, smooth)]
    for scale in range(scales - 1):
        a, b = (gaussian_blur(x, 2.0**scale) for x in (fixed, moved))
        values.append(_soft_dice(a, b, smooth))
    return torch.stack(values).mean(0)
