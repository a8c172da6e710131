"""U-Nets with a branch for each image, which exchange features by cross attention."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor, nn

from atlasmith.core.choices import Range
from atlasmith.core.sampling import half_shape, resize
from atlasmith.networks.attention import GlobalBlock, SwinBlock, largest_heads
from atlasmith.networks.blocks import conv_block, crop, head, pad_to_multiple
from atlasmith.networks.registration.base import Network
from atlasmith.networks.registration.coarse_to_fine import encode

Margin = Annotated[int, Range("from 0 to 4", lambda x: 0 <= x <= 4)]  # up to the size of a window


class Exchange(nn.Module):
    """Let the features of each image attend to those of the other one, by the same weights for both.

    Args:
        first: A block of attention.
        second: Likewise, from each image to the other one.
        within: Whether in the first block an image attends to itself, and not to the other one.
    """

    def __init__(self, first: nn.Module, second: nn.Module, within: bool) -> None:
        super().__init__()
        self.first, self.second, self.within = first, second, within

    def forward(self, x: Tensor) -> Tensor:
        """Map features (2 * B, width, *shape), those of the fixed images first, to the same shape."""
        x = self.first(x, None if self.within else self._other(x))
        result: Tensor = self.second(x, self._other(x))
        return result

    @staticmethod
    def _other(x: Tensor) -> Tensor:
        return x.roll(len(x) // 2, 0)


class CrossAttentionUNet(nn.Module):
    """Build one strided encoder for both images, whose levels end in an `Exchange`, and a common decoder.

    Args:
        ndim: As in `Network`.
        inputs: As in `Network`.
        outputs: As in `Network`.
        channels: As in `Network`.
        within: Whether an image attends to itself before the other one, and not twice to the other one.
        windows: Whether to attend in windows, at all levels but the finest, or from every voxel to every
            other one at the coarsest level alone.
        margin: As in `SwinBlock`.
        deformable: As in `SwinBlock`.
    """

    def __init__(
        self,
        ndim: int,
        inputs: int,
        outputs: int,
        channels: Sequence[int],
        within: bool,
        windows: bool = True,
        margin: int = 0,
        deformable: bool = False,
    ) -> None:
        super().__init__()

        def exchange(level: int, width: int) -> nn.Module:
            heads, coarsest = largest_heads(width), level == len(channels) - 1
            if windows and level:
                second = SwinBlock(ndim, width, heads, True, margin, deformable)
                if within:
                    return Exchange(SwinBlock(ndim, width, heads, False), second, within)
                return Exchange(SwinBlock(ndim, width, heads, False, margin, deformable), second, within)
            if not windows and coarsest:
                return Exchange(GlobalBlock(width, heads), GlobalBlock(width, heads), within)
            return nn.Identity()

        self.multiple = 2 ** len(channels)
        widths = [inputs, *channels]
        self.encoder = nn.ModuleList(
            nn.Sequential(conv_block(ndim, a, b, 2), exchange(level, b))
            for level, (a, b) in enumerate(itertools.pairwise(widths))
        )
        inner = [*channels[:-1], 2 * channels[-1]]
        self.decoder = nn.ModuleList(
            conv_block(ndim, coarse + 2 * fine, fine)
            for fine, coarse in reversed(list(itertools.pairwise(inner)))
        )
        self.head = head(ndim, channels[0], outputs, bounded=True)

    def forward(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """Map two images (B, inputs, *shape) to (B, outputs, *half)."""
        features = encode(self.encoder, pad_to_multiple(torch.cat([fixed, moving]), self.multiple))
        pairs = [torch.cat(x.chunk(2), dim=1) for x in features]
        x = pairs.pop()
        for level in self.decoder:
            fine = pairs.pop()
            x = level(torch.cat([resize(x, fine.shape[2:]), fine], dim=1))
        return crop(self.head(x), half_shape(fixed.shape[2:]))


@Network.declare("Cross attention in windows that search beyond their own voxels (XMorpher). Slow on a CPU.")
def xmorpher(
    ndim: int, inputs: int, outputs: int, channels: Sequence[int] = (16, 32, 32, 32), margin: Margin = 1
) -> nn.Module:
    """Build a `CrossAttentionUNet` whose images attend to each other in windows, and not to themselves.

    (XMorpher, Shi et al. 2022, arXiv:2206.07349.) A voxel attends to a larger window of the other image than
    that of the voxels which are attended from. Unlike theirs the images share their weights, convolutions
    change the resolution, and the decoder is one of convolutions.

    Args:
        ndim: As in `Network`.
        inputs: As in `Network`.
        outputs: As in `Network`.
        channels: As in `Network`.
        margin: By how much the window that is searched exceeds 4 voxels on each side, voxels, up to 4.
    """
    return CrossAttentionUNet(ndim, inputs, outputs, channels, within=False, margin=margin)


@Network.declare("Attention within each image, then across (TransMatch). For images that differ much.")
def transmatch(
    ndim: int, inputs: int, outputs: int, channels: Sequence[int] = (16, 32, 32, 32), deformable: bool = False
) -> nn.Module:
    """Build a `CrossAttentionUNet` whose images attend in windows to themselves, then to each other.

    (TransMatch, Chen et al. 2023, doi:10.1109/TMI.2023.3288136.) Unlike theirs the encoder has convolutions
    beside the attention. With `deformable` the other image's windows are sampled at learned offsets (Chen et
    al. 2023, arXiv:2303.06179).

    Args:
        ndim: As in `Network`.
        inputs: As in `Network`.
        outputs: As in `Network`.
        channels: As in `Network`.
        deformable: Whether the windows of the other image are deformable.
    """
    return CrossAttentionUNet(ndim, inputs, outputs, channels, within=True, deformable=deformable)


@Network.declare("Attention of all to all voxels at the coarsest level (DTN). For large displacements.")
def dtn(
    ndim: int, inputs: int, outputs: int, channels: Sequence[int] = (16, 32, 32, 32), within: bool = True
) -> nn.Module:
    """Build a `CrossAttentionUNet` with attention of every voxel to every other one at the coarsest level.

    (DTN, Zhang et al. 2021, doi:10.1007/978-3-030-87202-1_13.) Unlike theirs an image attends to the other
    one after itself, and not to both at once. Without `within` it is the cross-modal attention of Song et al.
    2022, doi:10.1016/j.media.2022.102612, twice, followed here by a decoder.

    Args:
        ndim: As in `Network`.
        inputs: As in `Network`.
        outputs: As in `Network`.
        channels: As in `Network`.
        within: Whether an image attends to itself before the other one.
    """
    return CrossAttentionUNet(ndim, inputs, outputs, channels, within, windows=False)
