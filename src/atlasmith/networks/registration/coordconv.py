"""A U-Net that knows where a voxel lies."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from atlasmith.core.fields import per_channel
from atlasmith.core.sampling import coordinates
from atlasmith.networks.registration.base import Network
from atlasmith.networks.unet import UNet

UNIT = 64.0  # voxels


class CoordConv(nn.Module):
    """Build a U-Net whose input has the coordinates of each voxel as further channels.

    (Liu et al. 2018, arXiv:1807.03247, whose convolutions all have them.) They are relative to the center of
    the image, in units of UNIT voxels whatever its size. Arguments as in `Network`.
    """

    def __init__(
        self, ndim: int, inputs: int, outputs: int, channels: Sequence[int] = (16, 32, 32, 32)
    ) -> None:
        super().__init__()
        self.body = UNet(ndim, 2 * inputs + ndim, outputs, channels, first_stride=2)

    def forward(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """Map two images (B, inputs, *shape) to (B, outputs, *half)."""
        shape = fixed.shape[2:]
        grid = coordinates(shape, fixed.new_empty((), dtype=torch.float32))
        centered = (grid - per_channel([(n - 1) / 2 for n in shape], grid)) / UNIT
        images = torch.cat([fixed, moving], dim=1)
        result: Tensor = self.body(
            torch.cat([images, centered.expand(len(fixed), *centered.shape[1:])], dim=1)
        )
        return result


coordconv = Network(CoordConv, "U-Net with the voxels' coordinates (CoordConv). For images in one position.")
