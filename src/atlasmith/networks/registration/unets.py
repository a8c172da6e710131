"""U-Nets of both images, joined as channels."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atlasmith.core.sampling import half_shape
from atlasmith.networks.blocks import CONVOLUTION, SLOPE, crop, head, pad_to_multiple
from atlasmith.networks.registration.base import Network
from atlasmith.networks.unet import LevelBlock, UNet


class StridedUNet(nn.Module):
    """Build a U-Net whose first convolution is strided, so that only the images are at full resolution.

    Args:
        ndim: As in `Network`.
        inputs: As in `Network`.
        outputs: As in `Network`.
        channels: As in `Network`.
        extra: As in `UNet`.
    """

    def __init__(
        self,
        ndim: int,
        inputs: int,
        outputs: int,
        channels: Sequence[int] = (16, 32, 32, 32),
        extra: LevelBlock = lambda level, width: nn.Identity(),
    ) -> None:
        super().__init__()
        self.body = UNet(ndim, 2 * inputs, outputs, channels, first_stride=2, extra=extra)

    def forward(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """Map two images (B, inputs, *shape) to (B, outputs, *half)."""
        result: Tensor = self.body(torch.cat([fixed, moving], dim=1))
        return result


class VoxelMorph(nn.Module):
    """Build the U-Net of VoxelMorph (Balakrishnan et al. 2019, doi:10.1109/TMI.2019.2897538).

    At full resolution and without norms: 327,331 parameters in 3-D, 109,170 in 2-D. Its output is averaged to
    half the size. Arguments as in `Network`.
    """

    def __init__(
        self, ndim: int, inputs: int, outputs: int, channels: Sequence[int] = (16, 32, 32, 32)
    ) -> None:
        super().__init__()

        def layer(before: int, width: int) -> nn.Sequential:
            return nn.Sequential(CONVOLUTION[ndim](before, width, 3, padding=1), nn.LeakyReLU(SLOPE))

        first, last = channels[0], channels[-1]
        self.encoder = nn.ModuleList(layer(a, b) for a, b in itertools.pairwise([2 * inputs, *channels]))
        self.decoder = nn.ModuleList(
            layer(width, last) for width in [last, *(last + skip for skip in reversed(channels[1:]))]
        )
        widths = [last + first, 2 * first, first, first]
        self.finish = nn.Sequential(*(layer(a, b) for a, b in itertools.pairwise(widths)))
        self.head = head(ndim, first, outputs)
        self.pool = {2: nn.MaxPool2d, 3: nn.MaxPool3d}[ndim](2)

    def forward(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """Map two images (B, inputs, *shape) to (B, outputs, *half)."""
        shape = fixed.shape[2:]
        x = pad_to_multiple(torch.cat([fixed, moving], dim=1), 2 ** len(self.encoder))
        skips = []
        for level in self.encoder:
            skips.append(level(x))
            x = self.pool(skips[-1])
        for level in self.decoder:
            x = F.interpolate(level(x), scale_factor=2, mode="nearest")
            x = torch.cat([x, skips.pop()], dim=1)
        return F.interpolate(crop(self.head(self.finish(x)), shape), size=half_shape(shape), mode="area")


strided_unet = Network(StridedUNet, "U-Net with a strided first convolution and norms. The default: fast.")
voxelmorph = Network(VoxelMorph, "VoxelMorph's U-Net: full resolution, no norms. To compare with VoxelMorph.")
