"""An encoder of attention in windows, and a decoder of convolutions."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atlasmith.core.sampling import half_shape
from atlasmith.networks.attention import SwinBlock, largest_heads
from atlasmith.networks.blocks import CONVOLUTION, conv_block, crop, head, pad_to_multiple
from atlasmith.networks.registration.base import Network

PATCH = 4  # voxels along each axis that the first stage joins


class _Stage(nn.Module):
    """Patches joined by a strided convolution, Swin blocks, and a norm."""

    def __init__(
        self, ndim: int, inputs: int, width: int, stride: int, heads: int, blocks: int, window: int
    ) -> None:
        super().__init__()
        self.merge = CONVOLUTION[ndim](inputs, width, stride, stride)
        count = largest_heads(width, heads)
        self.blocks = nn.Sequential(
            *(SwinBlock(ndim, width, count, bool(k % 2), size=window, expansion=4) for k in range(blocks))
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.blocks(self.merge(x)).movedim(1, -1)).movedim(-1, 1)


class TransMorph(nn.Module):
    """Build stages of Swin blocks at a quarter of the images' size and less, and a decoder of convolutions.

    (TransMorph, Chen et al. 2022, doi:10.1016/j.media.2022.102615.) A pair of blocks attends in windows, then
    in windows shifted by half a window, with a bias for each relative position. At half the size the decoder
    has a convolution of the images as skip connection. With channels [96, 192, 384, 768] and the settings
    `deep_blocks: 4, window: 6` it has the published widths, depths and heads, and 46.7 million parameters in
    3-D. Unlike theirs there is no level at full size, which has few, the windows have one size along all
    axes, where theirs have 5, 6 and 7 voxels, and patches are joined by a convolution.

    Args:
        ndim: As in `Network`.
        inputs: Likewise.
        outputs: Likewise.
        channels: Widths of the stages, finest first.
        heads: Attention heads of the finer half of the stages, or fewer, such that they divide the width; the
            coarser half has twice as many.
        deep_blocks: Swin blocks of the last stage but one; the others have two.
        window: Size of a window along each axis, voxels of a stage.
    """

    def __init__(
        self,
        ndim: int,
        inputs: int,
        outputs: int,
        channels: Sequence[int] = (16, 32, 48, 64),
        heads: int = 4,
        deep_blocks: int = 2,
        window: int = 4,
    ) -> None:
        super().__init__()
        count = len(channels)
        self.multiple = PATCH * 2 ** (count - 1)
        self.stages = nn.ModuleList(
            _Stage(
                ndim,
                before,
                width,
                stride=2 if level else PATCH,
                heads=heads if level < count // 2 else 2 * heads,
                blocks=deep_blocks if level == count - 2 else 2,
                window=window,
            )
            for level, (before, width) in enumerate(itertools.pairwise([2 * inputs, *channels]))
        )
        finest = max(channels[0] // 2, 1)
        self.skip = conv_block(ndim, 2 * inputs, finest)
        self.decoder = nn.ModuleList(
            nn.Sequential(conv_block(ndim, coarse + fine, fine), conv_block(ndim, fine, fine))
            for fine, coarse in reversed(list(itertools.pairwise([finest, *channels])))
        )
        self.head = head(ndim, finest, outputs)

    def forward(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """Map two images (B, inputs, *shape) to (B, outputs, *half)."""
        shape = fixed.shape[2:]
        x = pad_to_multiple(torch.cat([fixed, moving], dim=1), self.multiple, least=1)
        skips = [self.skip(F.interpolate(x, size=half_shape(x.shape[2:]), mode="area"))]
        for stage in self.stages:
            x = stage(x)
            skips.append(x)
        x = skips.pop()
        for level in self.decoder:
            x = F.interpolate(x, scale_factor=2, mode="nearest")
            x = level(torch.cat([x, skips.pop()], dim=1))
        return crop(self.head(x), half_shape(shape))


transmorph = Network(
    TransMorph,
    "Swin encoder, convolutional decoder (TransMorph). To compare with it: slow on a CPU when wide.",
)
