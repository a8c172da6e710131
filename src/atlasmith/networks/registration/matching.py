"""Networks whose displacements are means, weighted by a softmax, of offsets or of basis vectors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from atlasmith.networks.blocks import CONVOLUTION, conv_block, head, single_precision
from atlasmith.networks.correlation import correlate
from atlasmith.networks.cost_volume import expected_displacement
from atlasmith.networks.registration.base import Network
from atlasmith.networks.registration.coarse_to_fine import CoarseToFine


def attended_offsets(query: Tensor, key: Tensor, bias: Tensor, reach: int) -> Tensor:
    """Compute the mean offset to a neighborhood's voxels, weighted by attention, for each of several heads.

    Args:
        query: (B, heads * C, *shape).
        key: (B, heads * C, *shape); zero outside.
        bias: Of each head for each of `correlation_offsets`, (heads, (2 * reach + 1)^d).
        reach: Half the side of the neighborhood, voxels.

    Returns:
        Displacements (B, heads, d, *shape), voxels.

    Example:
        >>> key = torch.eye(16).view(1, 16, 4, 4)  # each voxel has its own feature
        >>> query = 1000 * key.roll(-1, dims=2)
        >>> attended_offsets(query, key, torch.zeros(1, 9), reach=1)[0, 0, :, 1, 1]
        tensor([1., 0.])
    """
    heads, ndim = len(bias), query.ndim - 2
    with single_precision(query):
        queries, keys = (x.float().unflatten(1, (heads, -1)).flatten(0, 1) for x in (query, key))
        # The sum over channels by their number's root, as attention has it, where `correlate` has the mean.
        logits = correlate(queries, keys, reach) * queries.shape[1] ** 0.5
        logits = logits.unflatten(0, (-1, heads)) + bias.view(*bias.shape, *[1] * ndim)
        return expected_displacement(-logits.flatten(0, 1), ndim).unflatten(0, (-1, heads))


class MotionModes(nn.Module):
    """Build a level of ModeT: an `attended_offsets` by each head, which compete by a softmax at each voxel.

    Args:
        ndim: 2 or 3.
        width: Channels of the features.
        outputs: Channels of the output.
        heads: Number of heads: motion modes.
        reach: Half the side of the neighborhood, voxels.
    """

    features = 6  # of each head

    def __init__(self, ndim: int, width: int, outputs: int, heads: int, reach: int) -> None:
        super().__init__()
        self.reach = reach
        self.project = CONVOLUTION[ndim](width, heads * self.features, 1)
        self.norm = nn.LayerNorm(heads * self.features)
        self.bias = nn.Parameter(torch.zeros(heads, (2 * reach + 1) ** ndim))
        self.compete = None
        if heads > 1:
            self.compete = nn.Sequential(
                conv_block(ndim, heads * ndim, width), CONVOLUTION[ndim](width, heads, 3, padding=1)
            )
        self.head = head(ndim, ndim, outputs)

    def forward(self, fixed: Tensor, moved: Tensor) -> Tensor:
        """Map features (B, width, *shape) to what is added to the output (B, outputs, *shape)."""
        query, key = (self.norm(self.project(x).movedim(1, -1)).movedim(-1, 1) for x in (fixed, moved))
        modes = attended_offsets(query, key, self.bias, self.reach)
        if self.compete is not None:
            modes = modes * self.compete(modes.flatten(1, 2)).softmax(1).unsqueeze(2)
        return self.head(modes.sum(1))


class DisplacementBases(nn.Module):
    """Build a level of Deformer: a mean of displacement vectors for each head, weighted by a softmax.

    Args:
        ndim: 2 or 3.
        width: Channels of the features.
        outputs: Channels of the output.
        heads: Number of heads.
        bases: Number of vectors of each head.
    """

    def __init__(self, ndim: int, width: int, outputs: int, heads: int, bases: int) -> None:
        super().__init__()
        self.weigh = nn.Sequential(
            conv_block(ndim, 2 * width, width), CONVOLUTION[ndim](width, heads * bases, 1)
        )
        self.bases = nn.Parameter(torch.randn(heads, bases, ndim))
        self.head = head(ndim, heads * ndim, outputs, bounded=True)

    def forward(self, fixed: Tensor, moved: Tensor) -> Tensor:
        """Map features (B, width, *shape) to what is added to the output (B, outputs, *shape)."""
        weights = self.weigh(torch.cat([fixed, moved], dim=1)).unflatten(1, self.bases.shape[:2]).softmax(2)
        return self.head(torch.einsum("bhk...,hkd->bhd...", weights, self.bases).flatten(1, 2))


class ModeT(CoarseToFine):
    """Build levels that decompose the motion into modes by attention to the voxels around each one.

    (ModeT, Wang et al. 2023, doi:10.1007/978-3-031-43999-5_70.) At each level a head compares a projection of
    the fixed image's features to those of the moving image, warped by the velocity so far, within a
    neighborhood: its mode is the mean of the offsets, weighted by the softmax of the products. The modes
    compete by a second softmax. Unlike theirs a convolution of the result adds to a velocity.

    Args:
        ndim: As in `Network`.
        inputs: As in `Network`.
        outputs: As in `Network`.
        channels: As in `Network`.
        heads: Number of heads of the coarsest level; each finer one has half as many.
        reach: Half the side of the neighborhood, voxels of a level.
    """

    def __init__(
        self,
        ndim: int,
        inputs: int,
        outputs: int,
        channels: Sequence[int] = (16, 32, 32, 32),
        heads: int = 8,
        reach: int = 1,
    ) -> None:
        def level(finer: int, width: int) -> nn.Module:
            count = max(heads >> (len(channels) - 1 - finer), 1)
            return MotionModes(ndim, width, outputs, count, reach)

        super().__init__(ndim, inputs, outputs, channels, level)


class Deformer(CoarseToFine):
    """Build levels whose displacement is a mean of learned basis vectors, weighted by attention.

    (Chen et al. 2022, arXiv:2207.03180.) A softmax of both images' features weighs the vectors of each head,
    and a convolution joins the heads. Here the vectors are parameters of a level, the same for all voxels.

    Args:
        ndim: As in `Network`.
        inputs: As in `Network`.
        outputs: As in `Network`.
        channels: As in `Network`.
        heads: Number of heads.
        bases: Number of basis vectors of each head.
    """

    def __init__(
        self,
        ndim: int,
        inputs: int,
        outputs: int,
        channels: Sequence[int] = (16, 32, 32, 32),
        heads: int = 8,
        bases: int = 16,
    ) -> None:
        super().__init__(
            ndim,
            inputs,
            outputs,
            channels,
            lambda finer, width: DisplacementBases(ndim, width, outputs, heads, bases),
        )


@Network.declare("Matching by a softmax over coordinates (Im2Grid). For displacements that follow features.")
def im2grid(
    ndim: int, inputs: int, outputs: int, channels: Sequence[int] = (16, 32, 32, 32), reach: int = 1
) -> nn.Module:
    """Build a `ModeT` of one head: the coordinate translator of Im2Grid.

    (Liu et al. 2022, doi:10.1007/978-3-031-18814-5_10.) A level's displacement is the mean of the coordinates
    around a voxel, weighted by the softmax of products of features. Unlike theirs it has a bias for each
    offset instead of codes of the positions, and adds to a velocity.

    Args:
        ndim: As in `Network`.
        inputs: As in `Network`.
        outputs: As in `Network`.
        channels: As in `Network`.
        reach: Half the side of the neighborhood, voxels of a level.
    """
    return ModeT(ndim, inputs, outputs, channels, 1, reach)


modet = Network(ModeT, "Matching by several heads (ModeT). For motions that differ from place to place.")
deformer = Network(Deformer, "Weighted basis displacements (Deformer). To compare with it.")
