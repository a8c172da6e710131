"""A U-Net with attention in windows."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from atlasmith.networks.attention import SwinBlock
from atlasmith.networks.registration.base import Network
from atlasmith.networks.registration.unets import StridedUNet


class TransMorph(StridedUNet):
    """Build a U-Net whose levels but the finest end in a pair of Swin blocks.

    Attention in windows of 4 voxels along each axis, then in windows shifted by half a window (TransMorph,
    Chen et al. 2022, doi:10.1016/j.media.2022.102615). Arguments as in `Network`; widths are multiples of
    `heads`.
    """

    heads = 4

    def __init__(
        self, ndim: int, inputs: int, outputs: int, channels: Sequence[int] = (16, 32, 48, 64)
    ) -> None:
        def extra(level: int, width: int) -> nn.Module:
            if level == 0:
                return nn.Identity()
            return nn.Sequential(*(SwinBlock(ndim, width, self.heads, shifted) for shifted in (False, True)))

        super().__init__(ndim, inputs, outputs, channels, extra)


transmorph = Network(
    TransMorph, "U-Net with Swin blocks. To compare with TransMorph, a far wider one; slow on a CPU."
)
