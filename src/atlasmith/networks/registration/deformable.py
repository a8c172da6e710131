"""A U-Net whose convolutions learn where to sample."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from atlasmith.core.sampling import coordinates, sample
from atlasmith.networks.blocks import CONVOLUTION, NORM, SLOPE, single_precision
from atlasmith.networks.registration.base import Network
from atlasmith.networks.registration.unets import StridedUNet

SIZE = 3  # of the kernel along each axis


class DeformableConvolution(nn.Module):
    """Build a convolution of 3 voxels that samples the input at learned offsets from its voxels.

    (Dai et al. 2017, arXiv:1703.06211.) A convolution of the input gives the offsets, which start at zero;
    the input is interpolated linearly, and is zero outside.

    Args:
        ndim: 2 or 3.
        inputs: Channels of the input.
        outputs: Channels of the output.
    """

    def __init__(self, ndim: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.convolution = CONVOLUTION[ndim](inputs, outputs, SIZE, padding=SIZE // 2)
        self.offsets = CONVOLUTION[ndim](inputs, ndim * SIZE**ndim, SIZE, padding=SIZE // 2)
        for parameter in self.offsets.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, *shape) to (B, outputs, *shape)."""
        (count, width), shape = x.shape[:2], x.shape[2:]
        offsets = self.offsets(x).float()
        with single_precision(x):
            kernel = coordinates([SIZE] * len(shape), offsets).flatten(2) - SIZE // 2
            voxels = coordinates(shape, offsets)
            # (B, d, kernel, *shape)
            points = offsets.unflatten(1, (len(shape), -1)) + voxels[:, :, None]
            points = points + kernel.view(*kernel.shape, *[1] * len(shape))
            values = sample(x.float(), points.flatten(2, 3))
        weight, bias = (self.convolution.get_parameter(name) for name in ("weight", "bias"))
        values = values.unflatten(2, (-1, shape[0])).reshape(count, width * SIZE ** len(shape), -1)
        result = F.conv1d(values, weight.flatten(1)[:, :, None], bias)
        return result.view(count, -1, *shape)


class DeformableUNet(StridedUNet):
    """Build a U-Net with a `DeformableConvolution` after each level of its encoder but the finest.

    Arguments as in `Network`.
    """

    def __init__(
        self, ndim: int, inputs: int, outputs: int, channels: Sequence[int] = (16, 32, 32, 32)
    ) -> None:
        def extra(level: int, width: int) -> nn.Module:
            if level == 0:
                return nn.Identity()
            return nn.Sequential(
                DeformableConvolution(ndim, width, width),
                NORM[ndim](width, affine=True),
                nn.LeakyReLU(SLOPE),
            )

        super().__init__(ndim, inputs, outputs, channels, extra)


deformable = Network(
    DeformableUNet, "U-Net with deformable convolutions. For structures that differ in size; slow on a CPU."
)
