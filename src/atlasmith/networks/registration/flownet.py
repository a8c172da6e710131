"""FlowNet: an encoder of large first kernels, and displacements refined from coarse to fine."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atlasmith.core.sampling import half_shape, resize
from atlasmith.networks.blocks import SLOPE, crop, head, pad_to_multiple, plain_block
from atlasmith.networks.correlation import correlate
from atlasmith.networks.registration.base import Network

TRANSPOSED: dict[int, type[nn.Module]] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
KERNELS = (7, 5, 5)  # of the first convolutions; the others have 3
STREAMS = 3  # levels before the images are correlated


class FlowNet(nn.Module):
    """Build FlowNetS, or with a `reach` FlowNetC (Dosovitskiy et al. 2015, doi:10.1109/ICCV.2015.316).

    FlowNetS joins the images as channels. FlowNetC encodes each with the same weights, and correlates their
    features at the third level. As theirs it predicts at scales down to a quarter of the images' size, and is
    interpolated from there. Theirs predicts a flow afresh at each scale, from the coarser one and with a loss
    of its own; here the scales are added, so that one objective trains them all.

    For images of 3 channels in 2-D, widths of 64, 128, 256, 512, 512, 1024, a reach of 10 and a stride of 2
    give FlowNetC's 39,175,298 parameters but the 264 that upsample the flow, which is interpolated here.

    Args:
        ndim: As in `Network`.
        inputs: As in `Network`.
        outputs: As in `Network`.
        channels: As in `Network`.
        reach: Number of offsets to each side of the correlation; 0 for FlowNetS.
        stride: Distance of the correlation's offsets, voxels of the third level.
    """

    def __init__(
        self,
        ndim: int,
        inputs: int,
        outputs: int,
        channels: Sequence[int] = (16, 32, 32, 64),
        reach: int = 0,
        stride: int = 1,
    ) -> None:
        super().__init__()
        self.outputs, self.multiple = outputs, 2 ** len(channels)
        self.reach, self.stride, self.joined = reach, stride, min(STREAMS, len(channels)) - 1
        widths = [inputs if reach else 2 * inputs, *channels]
        kernels = [*KERNELS, *[3] * len(channels)]
        self.encoder = nn.ModuleList(
            plain_block(ndim, a, b, kernel, 2)
            for kernel, (a, b) in zip(kernels, itertools.pairwise(widths), strict=False)
        )
        # A second convolution from the third level on, the first in which FlowNetC has both images.
        before = {level: width for level, width in enumerate(channels) if level >= STREAMS - 1}
        if reach:
            joined = channels[self.joined]
            self.redirect = plain_block(ndim, joined, max(joined // 8, 1), 1)
            before[self.joined] = (2 * reach + 1) ** ndim + max(joined // 8, 1)
        self.second = nn.ModuleDict(
            {str(level): plain_block(ndim, width, channels[level]) for level, width in before.items()}
        )
        self.predict, self.upsample = nn.ModuleList(), nn.ModuleList()
        width = channels[-1]
        for finer, skip in reversed(list(itertools.pairwise(channels[:-1]))):
            self.predict.append(head(ndim, width, outputs, bounded=True))
            self.upsample.append(
                nn.Sequential(TRANSPOSED[ndim](width, finer, 4, 2, padding=1), nn.LeakyReLU(SLOPE))
            )
            width = skip + finer + outputs
        self.predict.append(head(ndim, width, outputs, bounded=True))

    def _join(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """Features of the fixed image, fewer, and their correlations with those of the moving one."""
        correlations = correlate(fixed, moving, self.reach, self.stride)
        return torch.cat([self.redirect(fixed), F.leaky_relu(correlations, SLOPE)], dim=1)

    def _encode(self, fixed: Tensor, moving: Tensor) -> list[Tensor]:
        """Features at each level, finest first; those of the fixed image before the images are joined."""
        x = torch.cat([fixed, moving], dim=0 if self.reach else 1)
        features: list[Tensor] = []
        for level, layer in enumerate(self.encoder):
            x = layer(x)
            if self.reach and level == self.joined:
                x = self._join(*x.chunk(2))
            if str(level) in self.second:
                x = self.second[str(level)](x)
            features.append(x.chunk(2)[0] if self.reach and level < self.joined else x)
        return features

    def forward(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """Map two images (B, inputs, *shape) to (B, outputs, *half)."""
        padded = [pad_to_multiple(x, self.multiple) for x in (fixed, moving)]
        features = self._encode(*padded)
        x = features.pop()
        output = self.predict[0](x)
        for upsample, predict in zip(self.upsample, self.predict[1:], strict=True):
            skip = features.pop()
            output = resize(output, skip.shape[2:])
            x = torch.cat([skip, upsample(x), output], dim=1)
            output = output + predict(x)
        output = resize(output, [n // 2 for n in padded[0].shape[2:]])
        return crop(output, half_shape(fixed.shape[2:]))


flownet = Network(
    FlowNet,
    "FlowNetS, and with `reach` FlowNetC: large first kernels, no norms. To compare with FlowNet.",
)
