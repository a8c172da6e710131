"""Discrete search of displacements on a coarse grid, regularized by convex optimization or a mean field."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from atlasmith.core.fields import per_channel
from atlasmith.core.sampling import coordinates, local_mean, sample, warp
from atlasmith.networks.correlation import correlation_offsets
from atlasmith.networks.cost_volume import (
    expected_displacement,
    mean_over_neighbors,
    mean_over_planes,
    min_convolution,
)
from atlasmith.optimization.descriptors import Features, dense_costs

Regularization = Literal["convex", "mean_field"]

COUPLING = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
CONSISTENCY_STEPS = 15
SMALLEST = 1e-4  # cost of a squared label, by which what is equally good doesn't move
MEAN_FIELD_STEPS = 4
SHARPNESS = 20.0  # of the softmax over the displacements


def block_sizes(grid: int, spacing: Sequence[float], size: Sequence[int]) -> list[int]:
    """Return the voxels (d) of a coarse voxel along each axis.

    Args:
        grid: Size of a coarse voxel, in the smallest voxels.
        spacing: Size (d) of the voxels, mm.
        size: Number (d) of voxels of the image.
    """
    return [max(min(round(grid * min(spacing) / own), n), 1) for own, n in zip(spacing, size, strict=True)]


@dataclass(frozen=True)
class DiscreteSearch:
    """Find displacements among a few at each voxel of a coarse grid.

    Args:
        grid: Spacing of the coarse grid, in the smallest voxels; axes with larger ones take fewer.
        reach: Number of displacements on each side along each axis, one coarse voxel apart.
        regularization: `convex`: `coupled_convex`; `mean_field`: `mean_field`.
        planes: Whether to search in the planes of a volume alone.
    """

    grid: int = 6
    reach: int = 4
    regularization: Regularization = "convex"
    planes: bool = False

    def __call__(
        self,
        fixed: Sequence[Features],
        moving: Sequence[Features],
        spacing: Sequence[float],
        shape: Sequence[int],
    ) -> Tensor:
        """Find inverse consistent displacements.

        Args:
            fixed: Features of the fixed images, (B, K, C, *size).
            moving: Those of the moving images.
            spacing: Size (d) of their voxels, mm.
            shape: Size of the grid of the result, with the same corner voxels.

        Returns:
            Displacement (B, d, *shape), voxels of its grid.
        """
        size = fixed[0].values.shape[3:]
        blocks = block_sizes(self.grid, spacing, size)
        ratios = [own * n / (self.grid * min(spacing)) for own, n in zip(spacing, blocks, strict=True)]
        first, second = ([kind.pooled(blocks) for kind in features] for features in (fixed, moving))
        forward, inverse = (self._search(*pair, ratios) for pair in ((first, second), (second, first)))
        return _interpolated(inverse_consistent(forward, inverse)[0], blocks, size, shape)

    def _search(
        self, fixed: Sequence[Features], moving: Sequence[Features], ratios: Sequence[float]
    ) -> Tensor:
        """Displacement (B, d, *coarse), in coarse voxels of relative sizes `ratios`."""
        if not self.planes or len(ratios) == 2:
            return self._regularized(dense_costs(fixed, moving, self.reach), ratios)
        parts = []
        for normal in range(3):
            first, second = ([kind.slices(normal) for kind in features] for features in (fixed, moving))
            cost = dense_costs(first, second, self.reach).unflatten(0, (len(fixed[0].values), -1))
            cost = cost.movedim(1, 2 + normal)
            within = [axis for axis in range(3) if axis != normal]
            parts.append(self._regularized(cost, [ratios[axis] for axis in within]))
        return mean_over_planes(parts)

    def _regularized(self, cost: Tensor, ratios: Sequence[float]) -> Tensor:
        """Displacement (B, a, *coarse) along a axes, coarse voxels, from costs (B, L, *coarse)."""
        smooth = mean_over_neighbors(cost)
        if self.regularization == "mean_field":
            return mean_field(smooth, len(ratios), mean_over_neighbors)
        return coupled_convex(smooth, ratios)


def coupled_convex(cost: Tensor, ratios: Sequence[float]) -> Tensor:
    """Choose a smooth displacement field of low cost.

    By turns each voxel takes the displacement of the lowest sum of its cost and its squared distance to the
    smooth field, and these are averaged over neighborhoods to the next smooth field, while the weight of the
    distance grows (Heinrich et al. 2014, "Non-parametric discrete registration with convex optimisation",
    Workshop on Biomedical Image Registration).

    Args:
        cost: (B, L, *shape) of displacements along as many axes as there are ratios, in the order of
            `correlation_offsets`.
        ratios: Length of a step along each of these axes in the distance.

    Returns:
        (B, a, *shape), steps along these axes.

    Example:
        >>> cost = torch.ones(1, 25, 4, 4)
        >>> cost[:, 14] = 0  # of the displacement (0, 2)
        >>> coupled_convex(cost, [1.0, 1.0])[0, :, 2, 2]
        tensor([0., 2.])
    """
    ndim, reach = len(ratios), round(cost.shape[1] ** (1 / len(ratios))) // 2
    offsets = correlation_offsets(ndim, reach, device=cost.device)
    weights = torch.stack([offsets.new_full((), ratio**2) for ratio in ratios])
    squared = (offsets.square() @ weights).view(-1, *[1] * (cost.ndim - 2))

    def smooth(total: Tensor) -> Tensor:
        chosen = offsets[total.argmin(1)].movedim(-1, 1)
        return local_mean(chosen.flatten(0, 1), 1).view(chosen.shape)

    field = smooth(cost + SMALLEST * squared)
    for coefficient in COUPLING:
        # |offset - field|^2 but for what all offsets share.
        products = torch.einsum("la,ba...->bl...", offsets * weights, field)
        field = smooth(cost + coefficient * (squared - 2 * products))
    return field


def mean_field(cost: Tensor, ndim: int, average: Callable[[Tensor], Tensor]) -> Tensor:
    """Estimate displacements by mean-field inference (PDD-Net, Heinrich 2019, arXiv:1907.10931).

    To the cost of a voxel is added what its neighbors would agree with, the average of `min_convolution` of
    their sums so far; the result is the mean over displacements, weighted by the softmax of the negative
    sums.

    Args:
        cost: (B, L, *points), in the order of `correlation_offsets`.
        ndim: Number of axes along which they displace.
        average: Averages costs (B, L, *points) over the neighbors of each point.

    Returns:
        (B, ndim, *points), steps along these axes.
    """
    total = cost
    for _ in range(MEAN_FIELD_STEPS):
        total = cost + average(min_convolution(total, ndim))
    return expected_displacement(SHARPNESS * total, ndim)


def inverse_consistent(forward: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
    """Make two displacements each other's inverse, by repeated means of one and the other's inverse.

    (Siebert et al. 2021, arXiv:2112.03053.)

    Args:
        forward: (B, d, *shape), voxels.
        inverse: (B, d, *shape), voxels, of the opposite direction.

    Returns:
        Both.
    """
    for _ in range(CONSISTENCY_STEPS):
        forward, inverse = (
            (forward - warp(inverse, forward, padding="border")) / 2,
            (inverse - warp(forward, inverse, padding="border")) / 2,
        )
    return forward, inverse


def _interpolated(
    displacement: Tensor, blocks: Sequence[int], size: Sequence[int], shape: Sequence[int]
) -> Tensor:
    """Interpolate a displacement, in blocks of `blocks` voxels each, on a grid of `shape` with the corners of
    `size`, in its voxels."""
    ratios = [(n - 1) / max(new - 1, 1) for n, new in zip(size, shape, strict=True)]
    block = per_channel(blocks, displacement)
    points = (coordinates(shape, displacement) * per_channel(ratios, displacement) - (block - 1) / 2) / block
    values = sample(displacement, points.expand(len(displacement), *points.shape[1:]), padding="border")
    return values * per_channel([n / r if r else 0.0 for n, r in zip(blocks, ratios, strict=True)], values)
