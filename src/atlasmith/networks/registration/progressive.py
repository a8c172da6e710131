"""A network that grows from coarse to fine while it is trained."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atlasmith.core.sampling import half_shape, resize
from atlasmith.networks.blocks import conv_block, head
from atlasmith.networks.registration.base import Network, RegistrationNetwork
from atlasmith.networks.registration.pyramid import level_phase


class Progressive(RegistrationNetwork):
    """Build an encoder and decoder that start at the coarsest resolution, and grow a level at a time.

    (Eppenhof et al. 2020, doi:10.1109/TMI.2019.2953788.) The training of a level begins with its features and
    its output faded in, so that growth doesn't change the output; see `level_phase`. Unlike theirs a level
    adds to the output of the coarser one, instead of replacing it, and each level of the encoder takes the
    images at its resolution beside the features of the finer one.

    Args:
        ndim: As in `Network`.
        inputs: As in `Network`.
        outputs: As in `Network`.
        channels: As in `Network`.
        fade: Share of a level's steps in which it is faded in.
    """

    def __init__(
        self,
        ndim: int,
        inputs: int,
        outputs: int,
        channels: Sequence[int] = (16, 32, 32, 32),
        fade: float = 0.5,
    ) -> None:
        super().__init__()
        self.outputs, self.channels, self.fade = outputs, list(channels), fade
        widths = [0, *channels]
        self.encoder = nn.ModuleList(
            conv_block(ndim, 2 * inputs + finer, width) for finer, width in itertools.pairwise(widths)
        )
        self.decoder = nn.ModuleList(
            conv_block(ndim, coarser + width, width)
            for width, coarser in itertools.pairwise([*channels, channels[-1]])
        )
        self.heads = nn.ModuleList(head(ndim, width, outputs, bounded=True) for width in channels)
        self.weights = [1.0] * len(channels)  # of the levels, finest first

    def schedule(self, progress: float) -> None:
        """Grow: see `RegistrationNetwork`."""
        phase = level_phase(progress, len(self.heads))
        done = [phase - entered for entered in reversed(range(len(self.heads)))]
        self.weights = [min(max(share / max(self.fade, 1e-6), 0.0), 1.0) for share in done]
        self.weights[-1] = 1.0

    def forward(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """Map two images (B, inputs, *shape) to (B, outputs, *half)."""
        images, half = torch.cat([fixed, moving], dim=1), half_shape(fixed.shape[2:])
        sizes = [[max(n, 2) for n in half]]
        for _ in self.heads[1:]:
            sizes.append([max(n, 2) for n in half_shape(sizes[-1])])
        first = next(level for level, weight in enumerate(self.weights) if weight > 0)
        features: list[Tensor] = []
        for level in range(first, len(sizes)):
            parts = [F.interpolate(images, size=sizes[level], mode="area")]
            if features:
                finer = F.interpolate(features[-1], size=sizes[level], mode="area")
                parts.append(self.weights[level - 1] * finer)
            elif level:
                width = self.channels[level - 1]
                parts.append(images.new_zeros(len(images), width, *sizes[level]))
            features.append(self.encoder[level](torch.cat(parts, dim=1)))
        x, output = features[-1], images.new_zeros(len(images), self.outputs, *sizes[-1])
        for level in reversed(range(len(sizes))):
            output = resize(output, sizes[level])  # so too at levels to come: growth doesn't change it
            if features:
                x = self.decoder[level](torch.cat([resize(x, sizes[level]), features.pop()], dim=1))
                output = output + self.weights[level] * self.heads[level](x)
        return resize(output, half)


progressive = Network(
    Progressive, "A U-Net that grows from coarse to fine in training (Eppenhof). For large displacements."
)
