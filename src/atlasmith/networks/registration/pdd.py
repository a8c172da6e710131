"""A network that searches displacements in a regularized cost volume."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from atlasmith.core.sampling import half_shape, resize
from atlasmith.networks.blocks import (
    CONVOLUTION,
    NORM,
    crop,
    head,
    pad_to_multiple,
    single_precision,
    strided_blocks,
)
from atlasmith.networks.cost_volume import (
    displacement_moments,
    mean_over_neighbors,
    mean_over_planes,
    min_convolution,
    squared_differences,
    squared_differences_in_planes,
)
from atlasmith.networks.registration.base import Network

SHARPNESS = 10.0  # of the softmax at the start, of costs near 2 where features are unrelated


class DisplacementSearch(nn.Module):
    """Find the distribution of displacements between features from a cost volume.

    Costs are squared differences of features. Each iteration averages a voxel's costs with those that its
    neighborhood agrees with: a min-convolution over displacements, then a mean over voxels. The softmax of
    the negative costs has the displacements' probabilities. Its sharpness and the weights are learned.

    Args:
        ndim: 2 or 3.
        reach: Number of displacements on each side along each axis.
        step: Distance of neighboring displacements, voxels.
        planes: Whether to search displacements in the planes of a volume alone, and to average over these.
    """

    iterations = 2

    def __init__(self, ndim: int, reach: int, step: int = 1, planes: bool = False) -> None:
        super().__init__()
        self.reach, self.step, self.planes = reach, step, planes and ndim == 3
        self.balance = nn.Parameter(torch.zeros(self.iterations))  # between a voxel and its neighborhood
        self.log_sharpness = nn.Parameter(torch.tensor(SHARPNESS).log())

    def forward(self, fixed: Tensor, moving: Tensor) -> tuple[Tensor, Tensor]:
        """Map features (B, C, *shape) to mean and variance (B, d, *shape) of the displacement, voxels."""
        ndim = fixed.ndim - 2
        if not self.planes:
            return self._moments(squared_differences(fixed, moving, self.reach, self.step), ndim)
        costs = squared_differences_in_planes(fixed, moving, self.reach, self.step)
        moments = [self._moments(cost, ndim - 1) for cost in costs]
        mean, variance = (mean_over_planes(parts) for parts in zip(*moments, strict=True))
        return mean, variance

    def _moments(self, cost: Tensor, ndim: int) -> tuple[Tensor, Tensor]:
        """Moments of displacements along `ndim` axes, from costs (B, L, *shape)."""
        total = cost
        for share in self.balance.sigmoid():
            total = torch.lerp(cost, mean_over_neighbors(min_convolution(total, ndim)), share)
        return displacement_moments(total * self.log_sharpness.exp(), ndim, self.step)


class PDDNet(nn.Module):
    """Build features on a coarse grid, a `DisplacementSearch` between them, and a convolution of its result.

    (PDD-Net, Heinrich 2019, arXiv:1907.10931; with `planes` the 2.5-D search of Heinrich and Hansen, MICCAI
    2020, whose memory grows with the square of the reach.) The convolution has mean and standard deviation of
    the displacements as its input. Unlike theirs the features come of plain convolutions, and the result is a
    velocity. The grid's spacing is 2^n voxels of the image with n widths.

    Args:
        ndim: As in `Network`.
        inputs: As in `Network`.
        outputs: As in `Network`.
        channels: As in `Network`.
        reach: Number of displacements on each side along each axis.
        step: Distance of neighboring displacements, voxels of the coarse grid.
        planes: Whether to search in the planes of a volume alone.
    """

    def __init__(
        self,
        ndim: int,
        inputs: int,
        outputs: int,
        channels: Sequence[int] = (16, 32),
        reach: int = 3,
        step: int = 1,
        planes: bool = False,
    ) -> None:
        super().__init__()
        width = channels[-1]
        self.multiple = 2 ** len(channels)
        self.encoder = nn.Sequential(
            *strided_blocks(ndim, inputs, channels),
            CONVOLUTION[ndim](width, width, 3, padding=1),
            NORM[ndim](width, affine=True),
        )
        self.search = DisplacementSearch(ndim, reach, step, planes)
        self.head = head(ndim, 2 * ndim, outputs)

    def forward(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """Map two images (B, inputs, *shape) to (B, outputs, *half)."""
        x = pad_to_multiple(torch.cat([fixed, moving]), self.multiple)
        target, image = self.encoder(x).chunk(2)
        with single_precision(x):
            mean, variance = self.search(target.float(), image.float())
        # The root's derivative is infinite at 0.
        output = self.head(torch.cat([mean, (variance + 1e-3).sqrt()], dim=1))
        return crop(resize(output, half_shape(x.shape[2:])), half_shape(fixed.shape[2:]))


pdd = Network(PDDNet, "Search in a dense cost volume (PDD-Net). For large displacements, to be refined.")
