"""An encoder for each image, whose features are correlated."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from atlasmith.networks.blocks import conv_block, head
from atlasmith.networks.correlation import correlate
from atlasmith.networks.registration.base import Network
from atlasmith.networks.registration.coarse_to_fine import CoarseToFine


class DualStream(CoarseToFine):
    """Build an encoder for the images, and levels from coarse to fine that correlate their features.

    (Dual-PRNet++, Kang et al. 2022, doi:10.1016/j.media.2022.102379.) Each level warps the moving image's
    features by the output so far, and takes their correlations with the fixed image's features around each
    voxel.

    Args:
        ndim: As in `Network`.
        inputs: As in `Network`.
        outputs: As in `Network`.
        channels: As in `Network`.
        reach: Largest distance of the correlated features along each axis, voxels of a level.
        shared: Whether one encoder serves both images (Siamese), or each has its own (pseudo-Siamese), for
            images of different contrast.
    """

    def __init__(
        self,
        ndim: int,
        inputs: int,
        outputs: int,
        channels: Sequence[int] = (16, 32, 32, 32),
        reach: int = 1,
        shared: bool = True,
    ) -> None:
        maps = (2 * reach + 1) ** ndim

        def level(finer: int, width: int) -> nn.Module:
            return nn.Sequential(
                conv_block(ndim, maps + width + outputs, width),
                conv_block(ndim, width, width),
                head(ndim, width, outputs, bounded=True),
            )

        super().__init__(ndim, inputs, outputs, channels, level, shared)
        self.reach = reach

    def increment(self, level: nn.Module, fixed: Tensor, moved: Tensor, output: Tensor) -> Tensor:
        """Compute what a level adds to the output from the correlations: see `CoarseToFine`."""
        correlations = correlate(fixed, moved, self.reach)
        result: Tensor = level(torch.cat([correlations, fixed, output], dim=1))
        return result


dual_stream = Network(
    DualStream, "Correlated features at each level (Dual-PRNet++). For images that differ much."
)
