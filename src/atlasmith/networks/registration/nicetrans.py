"""Affine and deformable registration by one network, from coarse to fine."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from atlasmith.core.choices import CountOrZero
from atlasmith.core.sampling import coordinates
from atlasmith.networks.attention import SwinBlock, largest_heads
from atlasmith.networks.blocks import conv_block, head, single_precision
from atlasmith.networks.registration.base import Network
from atlasmith.networks.registration.coarse_to_fine import CoarseToFine, Joined


class AffinePart(nn.Module):
    """Project fields on those that are affine in the coordinates, v(x) = A x + t, by least squares.

    As a velocity its exponential is an affine map, whose matrix logarithm it is.

    Example:
        >>> import torch
        >>> ramp = torch.arange(4.0).expand(1, 1, 4, 4)
        >>> [bool(torch.allclose(AffinePart()(field), field)) for field in (ramp, ramp**2)]
        [True, False]
    """

    def forward(self, field: Tensor) -> Tensor:
        """Map fields (B, C, *shape), each channel by itself, to the same shape."""
        axes = tuple(range(2, field.ndim))
        with single_precision(field):
            result = field.mean(axes, keepdim=True)
            grid = coordinates(field.shape[2:], field)
            # Centered coordinates are orthogonal on a grid, so that each has its own slope.
            for centered in (grid - grid.mean(axes, keepdim=True)).split(1, dim=1):
                variance = centered.square().mean(axes, keepdim=True).clamp(min=1e-6)
                result = result + centered * (field * centered).mean(axes, keepdim=True) / variance
        return result


class NICETrans(CoarseToFine):
    """Build one encoder for both images, and levels whose coarse ones are affine and whose fine ones dense.

    (NICE-Trans, Meng et al. 2023, arXiv:2307.03421; without attention NICE-Net, Meng et al. 2022,
    arXiv:2206.12596.) Each level composes the deformation so far with its own, as the parametrization has it.
    That of an affine level is the affine part of what it gives at each voxel: for a velocity a matrix
    logarithm, so that the composition is the exponential of one velocity. Unlike theirs the affine parameters
    are those of a least-squares fit, and not a function of averaged features, in which positions are lost.

    Args:
        ndim: As in `Network`.
        inputs: Likewise.
        outputs: Likewise.
        channels: Likewise.
        affine_levels: Number of affine levels, the coarsest; the finest level is never one.
        attention: A pair of Swin blocks at each level but the finest; False: a convolution.
    """

    def __init__(
        self,
        ndim: int,
        inputs: int,
        outputs: int,
        channels: Sequence[int] = (16, 32, 32, 32),
        affine_levels: CountOrZero = 2,
        attention: bool = True,
    ) -> None:
        coarsest = range(len(channels) - 1, 0, -1)[:affine_levels]

        def level(finer: int, width: int) -> nn.Module:
            between: list[nn.Module] = [conv_block(ndim, width, width)]
            if attention and finer:
                between = [SwinBlock(ndim, width, largest_heads(width), shifted) for shifted in (False, True)]
            last = [AffinePart()] if finer in coarsest else []
            return Joined(
                conv_block(ndim, 2 * width, width), *between, head(ndim, width, outputs, bounded=True), *last
            )

        super().__init__(ndim, inputs, outputs, channels, level)

    def at_level(
        self, level: nn.Module, fixed: Tensor, moving: Tensor, output: Tensor, half: Sequence[int]
    ) -> Tensor:
        """Compute the output after an affine or dense level."""
        update = self.increment(level, fixed, self.warp_by_output(moving, output, half), output)
        return self.composed(output, update, half)


nicetrans = Network(
    NICETrans, "Affine levels, then dense ones, in one pass (NICE-Trans). For images that aren't aligned."
)
