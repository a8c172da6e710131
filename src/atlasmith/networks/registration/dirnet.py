"""Control points of B-splines, regressed from pooled features."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from atlasmith.core.bsplines import basis_matrix, spread, uniform_knots
from atlasmith.core.choices import Positive
from atlasmith.core.sampling import half_shape, sample
from atlasmith.networks.blocks import conv_block, head, pad_to_multiple, single_precision
from atlasmith.networks.registration.base import Network

POOL: dict[int, type[nn.Module]] = {2: nn.AvgPool2d, 3: nn.AvgPool3d}


class DIRNet(nn.Module):
    """Build a regressor of control points, from which cubic B-splines give the output.

    (de Vos et al. 2017, arXiv:1704.06065.) Each level is a convolution and an average pooling. The features
    are then interpolated at the control points, whose spacing in the paper is that of the last level. Unlike
    theirs it has instance norms and leaky ReLUs.

    Args:
        ndim: As in `Network`.
        inputs: As in `Network`.
        outputs: As in `Network`.
        channels: As in `Network`.
        spacing: Distance of the control points along each axis, half-resolution voxels.
    """

    def __init__(
        self,
        ndim: int,
        inputs: int,
        outputs: int,
        channels: Sequence[int] = (16, 32, 32),
        spacing: Positive = 4.0,
    ) -> None:
        super().__init__()
        self.spacing, self.multiple = spacing, 2 ** len(channels)
        self.encoder = nn.Sequential(
            *(
                nn.Sequential(conv_block(ndim, a, b), POOL[ndim](2))
                for a, b in itertools.pairwise([2 * inputs, *channels])
            )
        )
        self.regressor = nn.Sequential(
            conv_block(ndim, channels[-1], channels[-1]), head(ndim, channels[-1], outputs, bounded=True)
        )

    def _at_control_points(self, features: Tensor, shape: Sequence[int]) -> Tensor:
        """Interpolate features (B, C, *coarse) of images of `shape` at the control points."""
        axes = []
        for n, half in zip(shape, half_shape(shape), strict=True):
            knots = uniform_knots(half, self.spacing, features)
            centers = torch.cat([knots[:1] - self.spacing, knots, knots[-1:] + self.spacing])
            voxels = centers * ((n - 1) / max(half - 1, 1))  # of the image
            axes.append((voxels - (self.multiple - 1) / 2) / self.multiple)
        points = torch.stack(torch.meshgrid(*axes, indexing="ij"))[None].to(features.dtype)
        return sample(features, points.expand(len(features), *points.shape[1:]), padding="border")

    def forward(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """Map two images (B, inputs, *shape) to (B, outputs, *half)."""
        shape = fixed.shape[2:]
        features = self.encoder(pad_to_multiple(torch.cat([fixed, moving], dim=1), self.multiple))
        coefficients = self.regressor(self._at_control_points(features.float(), shape))
        with single_precision(coefficients):
            matrices = [basis_matrix(n, self.spacing, coefficients) for n in half_shape(shape)]
            return spread(coefficients, matrices)


dirnet = Network(
    DIRNet, "Control points of B-splines from pooled features (DIRNet). For smooth deformations, fast."
)
