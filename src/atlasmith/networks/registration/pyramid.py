"""Networks at increasing resolution, each of which adds to the velocity."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atlasmith.core.sampling import half_shape, resize
from atlasmith.networks.blocks import conv_block, head
from atlasmith.networks.registration.base import Network, warp_by_output


class _Residual(nn.Module):
    """Two blocks and a skip connection."""

    def __init__(self, ndim: int, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(conv_block(ndim, channels, channels), conv_block(ndim, channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x + self.body(x)
        return result


class Pyramid(nn.Module):
    """Build networks for the images at an eighth, a quarter and half their size.

    (LapIRN, Mok and Chung 2020, arXiv:2006.16148.) Each level takes the moving image warped by the velocity
    so far, and adds to it. Unlike theirs the levels are trained together. Arguments as in `Network`.
    """

    def __init__(self, ndim: int, inputs: int, outputs: int, channels: Sequence[int] = (8, 16, 32)) -> None:
        super().__init__()

        def level(width: int) -> nn.Sequential:
            return nn.Sequential(
                conv_block(ndim, 2 * inputs + outputs, width),
                _Residual(ndim, width),
                _Residual(ndim, width),
                head(ndim, width, outputs),
            )

        self.outputs = outputs
        self.levels = nn.ModuleList(level(width) for width in reversed(channels))

    def forward(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """Map two images (B, inputs, *shape) to (B, outputs, *half)."""
        sizes = [half_shape(fixed.shape[2:])]
        while len(sizes) < len(self.levels):
            sizes.insert(0, [max(n, 2) for n in half_shape(sizes[0])])
        output = fixed.new_zeros(len(fixed), self.outputs, *sizes[0])
        for level, size in zip(self.levels, sizes, strict=True):
            output = resize(output, size)
            target, image = (F.interpolate(x, size=size, mode="area") for x in (fixed, moving))
            moved = warp_by_output(image, output, sizes[-1])
            output = output + level(torch.cat([target, moved, output], dim=1))
        return output


pyramid = Network(
    Pyramid, "Networks at three resolutions (LapIRN). For large displacements and little memory."
)
