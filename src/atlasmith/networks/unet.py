"""A small U-Net for 2-D and 3-D, and what other networks share with it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CONVOLUTION = {2: nn.Conv2d, 3: nn.Conv3d}
NORM: dict[int, type[nn.Module]] = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
BATCH_NORM: dict[int, type[nn.Module]] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


def conv_block(
    ndim: int, inputs: int, outputs: int, stride: int = 1, norm: Mapping[int, type[nn.Module]] = NORM
) -> nn.Sequential:
    """Convolution, norm, activation."""
    return nn.Sequential(
        CONVOLUTION[ndim](inputs, outputs, 3, stride, padding=1),
        norm[ndim](outputs, affine=True),
        nn.LeakyReLU(0.2),
    )


def head(ndim: int, inputs: int, outputs: int) -> nn.Module:
    """The last convolution. It starts near zero, so a registration network starts at the identity."""
    convolution: nn.Module = CONVOLUTION[ndim](inputs, outputs, 3, padding=1)
    for parameter in convolution.parameters():
        nn.init.normal_(parameter, std=1e-6)
    return convolution


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """`x` (B, C, *shape) padded at its ends to multiples of `multiple`.

    At least two of them, since a norm needs more than one voxel at the coarsest level.
    """
    return F.pad(x, [p for n in reversed(x.shape[2:]) for p in (0, max(-n % multiple, 2 * multiple - n))])


def crop(x: Tensor, shape: Sequence[int]) -> Tensor:
    """`x` (B, C, *padded) without the padding at its ends."""
    for axis, n in enumerate(shape, start=2):
        x = x.narrow(axis, 0, n)
    return x


class UNet(nn.Module):
    """Encoder and decoder with skips (Ronneberger et al. 2015), strided convolutions and a norm, any input
    size.

    Input (B, in_channels, *shape); output (B, out_channels, *shape), or half that size (rounded up) with
    `first_stride=2`. `channels` are the widths of the levels, finest first. `extra` makes a module that
    follows each level of the encoder, from the level, 0 the finest, and its width.
    """

    def __init__(
        self,
        ndim: int,
        in_channels: int,
        out_channels: int,
        channels: Sequence[int],
        first_stride: int = 1,
        extra: Callable[[int, int], nn.Module] = lambda level, width: nn.Identity(),
        norm: Mapping[int, type[nn.Module]] = NORM,
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
        self.head = head(ndim, channels[0], out_channels)

    def forward(self, x: Tensor) -> Tensor:
        shape = x.shape[2:]
        x = pad_to_multiple(x, self.multiple)
        skips: list[Tensor] = []
        for level in self.encoder:
            x = level(x)
            skips.append(x)
        x = skips.pop()
        for level in self.decoder:
            x = F.interpolate(x, scale_factor=2, mode="nearest")
            x = level(torch.cat([x, skips.pop()], dim=1))
        return crop(self.head(x), [-(-n // self.first_stride) for n in shape])
