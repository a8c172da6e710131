"""Overlap of label probabilities, a channel a label."""

from __future__ import annotations

import torch
from torch import Tensor

from atlasmith.losses.similarity.filters import gaussian_blur
from atlasmith.losses.similarity.measure import measure


def _soft_dice(fixed: Tensor, moved: Tensor, smooth: float) -> Tensor:
    overlap = (fixed * moved).flatten(2).sum(-1)
    total = (fixed.square() + moved.square()).flatten(2).sum(-1)
    return 1 - ((2 * overlap + smooth) / (total + smooth)).mean(1)


@measure
def dice(fixed: Tensor, moved: Tensor, mask: Tensor | None = None, smooth: float = 1e-5) -> Tensor:
    """1 - soft Dice (Milletari et al. 2016, doi:10.1109/3DV.2016.79), the mean over channels: 0 at best.

    A channel that is empty in both counts as perfect.
    """
    if mask is not None:
        fixed, moved = fixed * mask, moved * mask
    return _soft_dice(fixed, moved, smooth)


@measure
def dice_multiscale(
    fixed: Tensor, moved: Tensor, mask: Tensor | None = None, scales: int = 6, smooth: float = 1e-5
) -> Tensor:
    """The mean of `dice` of the labels as they are and blurred by 1, 2, 4, ... voxels, `scales` in all (Hu et
    al. 2018, doi:10.1016/j.media.2018.07.002): it pulls at labels that don't overlap yet."""
    if mask is not None:
        fixed, moved = fixed * mask, moved * mask
    values = [_soft_dice(fixed, moved, smooth)]
    for scale in range(scales - 1):
        a, b = (gaussian_blur(x, 2.0**scale) for x in (fixed, moved))
        values.append(_soft_dice(a, b, smooth))
    return torch.stack(values).mean(0)
