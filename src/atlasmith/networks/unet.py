"""A small U-Net for 2-D and 3-D."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class UNet(nn.Module):
    """Encoder and decoder with skips (Ronneberger et al. 2015), strided convolutions and
    instance norm, any input size.

    Input (B, in_channels, *shape); output (B, out_channels, *shape), or half that size (rounded up) with
    `first_stride=2`. `channels` are the widths of the levels, finest first. The last convolution starts
    near zero, so a registration network starts at the identity.
    """

    def __init__(
        self,
        ndim: int,
        in_channels: int,
        out_channels: int,
        channels: Sequence[int],
        first_stride: int = 1,
    ) -> None:
        super().__init__()
        convolution = {2: nn.Conv2d, 3: nn.Conv3d}[ndim]
        norm = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}[ndim]

        def block(inputs: int, outputs: int, stride: int) -> nn.Sequential:
            return nn.Sequential(
                convolution(inputs, outputs, 3, stride, padding=1),
                norm(outputs, affine=True),
                nn.LeakyReLU(0.2),
            )

        self.first_stride = first_stride
        self.multiple = first_stride * 2 ** (len(channels) - 1)
        widths = [in_channels, *channels]
        strides = [first_stride] + [2] * (len(channels) - 1)
        self.encoder = nn.ModuleList(
            block(widths[i], widths[i + 1], strides[i]) for i in range(len(channels))
        )
        self.decoder = nn.ModuleList(
            block(channels[i + 1] + channels[i], channels[i], 1) for i in reversed(range(len(channels) - 1))
        )
        self.head = convolution(channels[0], out_channels, 3, padding=1)
        for parameter in self.head.parameters():
            nn.init.normal_(parameter, std=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        shape = x.shape[2:]
        # At least two voxels at the coarsest level, where the norm needs more than one.
        padding = [p for n in reversed(shape) for p in (0, max(-n % self.multiple, 2 * self.multiple - n))]
        x = F.pad(x, padding)
        skips: list[Tensor] = []
        for level in self.encoder:
            x = level(x)
            skips.append(x)
        x = skips.pop()
        for level in self.decoder:
            x = F.interpolate(x, scale_factor=2, mode="nearest")
            x = level(torch.cat([x, skips.pop()], dim=1))
        x = self.head(x)
        for axis, n in enumerate(shape, start=2):
            x = x.narrow(axis, 0, -(-n // self.first_stride))
        return x
