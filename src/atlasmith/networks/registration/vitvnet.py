"""A V-Net whose coarsest level attends from every part of the image to every other one."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atlasmith.core.choices import Positive
from atlasmith.core.sampling import half_shape
from atlasmith.networks.attention import GlobalBlock, largest_heads
from atlasmith.networks.blocks import CONVOLUTION, conv_block, crop, head, pad_to_multiple, plain_block
from atlasmith.networks.registration.base import Network

POOL = {2: F.max_pool2d, 3: F.max_pool3d}


def _double_block(ndim: int, inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(conv_block(ndim, inputs, outputs, stride), conv_block(ndim, outputs, outputs))


class ViTVNet(nn.Module):
    """Build a convolutional encoder, a vision transformer on the patches of its features, and a decoder.

    (ViT-V-Net, Chen et al. 2021, arXiv:2104.06468.) The decoder has as skip connections the encoder's levels
    and, between its coarsest one and the patches, maxima of that. With channels [16, 32, 32] and the settings
    `width: 252, layers: 12, heads: 12, expansion: 12.19, halvings: 3, bottleneck: 512` it has the published
    widths and 31.5 million parameters in 3-D. Unlike theirs the first convolution is strided, so that the
    output has half the size, and sines and cosines code the positions, so that images of any size fit.

    Args:
        ndim: As in `Network`.
        inputs: Likewise.
        outputs: Likewise.
        channels: Likewise, of the encoder.
        width: Channels of a patch.
        layers: Number of attention blocks.
        heads: Attention heads, or fewer, such that they divide `width`.
        expansion: Hidden channels of a block, relative to `width`.
        halvings: The patches have 2^halvings voxels of the coarsest features along each axis.
        bottleneck: Channels of the decoder's first convolution.
    """

    def __init__(
        self,
        ndim: int,
        inputs: int,
        outputs: int,
        channels: Sequence[int] = (16, 32, 32),
        width: int = 64,
        layers: int = 4,
        heads: int = 4,
        expansion: Positive = 4.0,
        halvings: int = 1,
        bottleneck: int = 64,
    ) -> None:
        super().__init__()
        self.halvings, patch, coarsest = halvings, 2**halvings, channels[-1]
        self.encoder = nn.ModuleList(
            _double_block(ndim, a, b, 2) for a, b in itertools.pairwise([2 * inputs, *channels])
        )
        self.embed = CONVOLUTION[ndim](coarsest, width, patch, patch)
        count = largest_heads(width, heads)
        self.transformer = nn.Sequential(*(GlobalBlock(width, count, expansion) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.expand = plain_block(ndim, width, bottleneck)
        skips = [coarsest] * (halvings - 1) + list(reversed(channels))
        between = [3 * coarsest * 2**level // 2 for level in reversed(range(halvings - 1))]
        widths = [bottleneck, *between, *reversed(channels)]
        self.decoder = nn.ModuleList(
            _double_block(ndim, before + skip, after)
            for (before, after), skip in zip(itertools.pairwise(widths), skips, strict=True)
        )
        self.head = head(ndim, channels[0], outputs)

    def forward(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """Map two images (B, inputs, *shape) to (B, outputs, *half)."""
        shape = fixed.shape[2:]
        x = pad_to_multiple(torch.cat([fixed, moving], dim=1), 2 ** len(self.encoder))
        skips = []
        for level in self.encoder:
            x = level(x)
            skips.append(x)
        pooled = x = F.pad(x, [p for n in reversed(x.shape[2:]) for p in (0, -n % 2**self.halvings)])
        for _ in range(self.halvings - 1):
            pooled = POOL[len(shape)](pooled, 2)
            skips.append(pooled)
        x = self.norm(self.transformer(self.embed(x)).movedim(1, -1)).movedim(-1, 1)
        x = self.expand(x)
        for level in self.decoder:
            skip = skips.pop()
            x = crop(F.interpolate(x, scale_factor=2, mode="nearest"), skip.shape[2:])
            x = level(torch.cat([x, skip], dim=1))
        return crop(self.head(x), half_shape(shape))


vitvnet = Network(
    ViTVNet, "V-Net with a vision transformer at the coarsest level (ViT-V-Net). To compare with it."
)
