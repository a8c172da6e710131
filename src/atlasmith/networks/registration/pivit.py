"""Attention in windows, applied again and again at the coarsest level of a pyramid of features."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from atlasmith.networks.attention import SwinBlock, largest_heads
from atlasmith.networks.blocks import conv_block, head
from atlasmith.networks.registration.base import Network
from atlasmith.networks.registration.coarse_to_fine import CoarseToFine, Joined


class PIViT(CoarseToFine):
    """Build one encoder for both images, and a velocity that is found at the coarsest level, in iterations.

    (PIViT, Ma et al. 2023, doi:10.1007/978-3-031-43999-5_57.) An iteration warps the moving image's features
    by the velocity so far, and adds to it by a pair of Swin blocks, whose windows of four voxels are large
    parts of an image at that level; all iterations have the same weights. Each finer level adds once, by
    convolutions. Unlike theirs the iterations are at one level, and velocities are added.

    Args:
        ndim: As in `Network`.
        inputs: Likewise.
        outputs: Likewise.
        channels: Likewise.
        iterations: Iterations at the coarsest level.
    """

    def __init__(
        self,
        ndim: int,
        inputs: int,
        outputs: int,
        channels: Sequence[int] = (16, 32, 32, 64),
        iterations: int = 3,
    ) -> None:
        def level(finer: int, width: int) -> nn.Module:
            swin = [SwinBlock(ndim, width, largest_heads(width), shifted) for shifted in (False, True)]
            between = swin if finer == len(channels) - 1 else []
            return Joined(
                conv_block(ndim, 2 * width, width), *between, head(ndim, width, outputs, bounded=True)
            )

        super().__init__(ndim, inputs, outputs, channels, level)
        self.iterations = iterations

    def at_level(
        self, level: nn.Module, fixed: Tensor, moving: Tensor, output: Tensor, half: Sequence[int]
    ) -> Tensor:
        """Compute the output after a level, of several iterations if it is the coarsest."""
        for _ in range(self.iterations if level is self.levels[0] else 1):
            output = super().at_level(level, fixed, moving, output, half)
        return output


pivit = Network(
    PIViT, "Iterated attention at low resolution, then convolutions (PIViT). For large displacements."
)
