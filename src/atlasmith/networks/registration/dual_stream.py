"""One encoder for both images, whose features are correlated."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atlasmith.core.sampling import half_shape, resize
from atlasmith.networks.blocks import conv_block, crop, head, pad_to_multiple
from atlasmith.networks.registration.base import Network, warp_by_output


class DualStream(nn.Module):
    """Build one encoder for both images, and levels from coarse to fine that add to the velocity.

    (Dual-PRNet++, Kang et al. 2022, doi:10.1016/j.media.2022.102379.) Each level warps the moving image's
    features by the velocity so far, and takes their correlations with the fixed image's features around each
    voxel. Arguments as in `Network`.
    """

    def __init__(
        self, ndim: int, inputs: int, outputs: int, channels: Sequence[int] = (16, 32, 32, 32)
    ) -> None:
        super().__init__()
        self.outputs, self.multiple = outputs, 2 ** len(channels)
        self.encoder = nn.ModuleList(
            conv_block(ndim, a, b, 2) for a, b in itertools.pairwise([inputs, *channels])
        )
        self.offsets = list(itertools.product((0, 1, 2), repeat=ndim))
        self.levels = nn.ModuleList(
            nn.Sequential(
                conv_block(ndim, len(self.offsets) + width + outputs, width),
                conv_block(ndim, width, width),
                head(ndim, width, outputs),
            )
            for width in reversed(channels)
        )

    def _correlations(self, fixed: Tensor, moved: Tensor) -> Tensor:
        """(B, offsets, *shape): means over features (B, C, *shape) of products, at most a voxel apart."""
        padded = F.pad(moved, [1] * (2 * (fixed.ndim - 2)))
        maps = []
        for offset in self.offsets:
            shifted = padded
            for axis, start in enumerate(offset, start=2):
                shifted = shifted.narrow(axis, start, fixed.shape[axis])
            maps.append((fixed * shifted).mean(1))
        return torch.stack(maps, dim=1)

    def forward(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """Map two images (B, inputs, *shape) to (B, outputs, *half)."""
        count, shape = len(fixed), fixed.shape[2:]
        x = pad_to_multiple(torch.cat([fixed, moving]), self.multiple)
        features: list[Tensor] = []
        for layer in self.encoder:
            x = layer(x)
            features.append(x)
        half = features[0].shape[2:]
        output = x.new_zeros(count, self.outputs, *x.shape[2:])
        for level in self.levels:
            target, image = features.pop().split(count)
            output = resize(output, target.shape[2:])
            correlations = self._correlations(target, warp_by_output(image, output, half))
            output = output + level(torch.cat([correlations, target, output], dim=1))
        return crop(output, half_shape(shape))


dual_stream = Network(
    DualStream, "Correlated features at each level (Dual-PRNet++). For images that differ much."
)
