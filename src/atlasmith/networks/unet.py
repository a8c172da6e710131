"""A small U-Net for 2-D and 3-D."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atlasmith.networks.blocks import NORM, conv_block, crop, head, pad_to_multiple

LevelBlock = Callable[[int, int], nn.Module]


class UNet(nn.Module):
    """Build a U-Net with strided convolutions and norms, for inputs of any size.

    (Ronneberger et al. 2015, doi:10.1007/978-3-319-24574-4_28.)

    Args:
        ndim: 2 or 3.
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        channels: Widths of the levels, finest first.
        first_stride: Stride of the first convolution; with 2 the output has half the size, rounded up.
        extra: From a level of the encoder, 0 the finest, and its width to a module that follows it.
        norm: The norm for each `ndim`.
        single: Of the last convolution, see `head`.
        bounded: Likewise.
    """

    def __init__(
        self,
        ndim: int,
        in_channels: int,
        out_channels: int,
        channels: Sequence[int],
        first_stride: int = 1,
        extra: LevelBlock = lambda level, width: nn.Identity(),
        norm: Mapping[int, type[nn.Module]] = NORM,
        single: bool = True,
        bounded: bool = False,
    ) -> None:
        super().__init__()
        self.first_stride = first_stride
        self.multiple = first_stride * 2 ** (len(channels) - 1)
        widths = [in_channels, *channels]
        strides = [first_stride] + [2] * (len(channels) - 1)
        self.encoder = nn.ModuleList(
            nn.Sequential(
                conv_block(ndim, widths[i], widths[i + 1], strides[i], norm), extra(i, widths[i + 1])
            )
            for i in range(len(channels))
        )
        self.decoder = nn.ModuleList(
            conv_block(ndim, coarse + fine, fine, norm=norm)
            for fine, coarse in reversed(list(itertools.pairwise(channels)))
        )
        self.head = head(ndim, channels[0], out_channels, single, bounded=bounded)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, *shape) to (B, out_channels, *shape / first_stride, rounded up)."""
        shape = x.shape[2:]
        return crop(self.head(self.features(x)[-1]), [-(-n // self.first_stride) for n in shape])

    def features(self, x: Tensor, guides: Sequence[Callable[[Tensor], Tensor]] = ()) -> list[Tensor]:
        """Compute what the decoder's levels give.

        Args:
            x: (B, in_channels, *shape).
            guides: What changes the features after each level of the decoder, coarsest first; may be none.

        Returns:
            The features of the levels (B, width, *padded), coarsest first: one for each of `channels` but the
            coarsest, or with a single one the encoder's.
        """
        x = pad_to_multiple(x, self.multiple)
        skips: list[Tensor] = []
        for level in self.encoder:
            x = level(x)
            skips.append(x)
        x = skips.pop()
        features = [] if len(self.decoder) else [x]
        for level, guide in itertools.zip_longest(self.decoder, guides):
            x = F.interpolate(x, scale_factor=2, mode="nearest")
            x = level(torch.cat([x, skips.pop()], dim=1))
            features.append(x if guide is None else guide(x))
            x = features[-1]
        return features
