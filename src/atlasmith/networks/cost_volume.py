"""Cost volumes: their labels are displacements, regularized over displacements and over voxels.

(As in PDD-Net, Heinrich 2019, arXiv:1907.10931.) A cost volume is (B, L, *shape), L = (2 * reach + 1)^a: at
each voxel the costs of displacements along `a` axes, in the order of `correlation_offsets`. All functions are
differentiable.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from atlasmith.core.sampling import local_mean
from atlasmith.networks.correlation import correlate, correlation_offsets


def squared_differences(fixed: Tensor, moving: Tensor, reach: int, step: int = 1) -> Tensor:
    """Compute the mean over channels of (fixed(x) - moving(x + offset))^2.

    Args:
        fixed: (B, C, *shape), 2-D or 3-D.
        moving: (B, C, *shape); zero outside.
        reach: Number of offsets on each side along each axis.
        step: Distance of neighboring offsets, voxels.

    Returns:
        The cost volume (B, (2 * reach + 1)^d, *shape).

    Example:
        >>> moving = torch.randn(1, 8, 9, 9, generator=torch.Generator().manual_seed(0))
        >>> cost = squared_differences(moving.roll((-2, 1), dims=(2, 3)), moving, reach=2)
        >>> expected_displacement(50 * cost, ndim=2)[0, :, 4, 4].round()
        tensor([ 2., -1.])
    """
    # One correlation: |f - m|^2 = |f|^2 + (-2 f, 1) (m, |m|^2).
    lengths = moving.square().sum(1, keepdim=True)
    first = torch.cat([-2 * fixed, torch.ones_like(lengths)], dim=1)
    products = correlate(first, torch.cat([moving, lengths], dim=1), reach, step)
    channels = fixed.shape[1]
    return fixed.square().mean(1, keepdim=True) + products * ((channels + 1) / channels)


def squared_differences_in_planes(fixed: Tensor, moving: Tensor, reach: int, step: int = 1) -> list[Tensor]:
    """Compute `squared_differences` for the displacements within each of the planes of a volume.

    (Heinrich and Hansen 2020, MICCAI.) The number of labels grows with the square
    of the reach instead of its cube.

    Args:
        fixed: (B, C, *shape), 3-D.
        moving: (B, C, *shape).
        reach: As in `squared_differences`.
        step: Likewise.

    Returns:
        For each axis, in order, the cost volume (B, (2 * reach + 1)^2, *shape) of displacements along the two
        others.
    """
    costs = []
    for axis in range(2, fixed.ndim):
        target, image = (x.movedim(axis, 1).flatten(0, 1) for x in (fixed, moving))
        cost = squared_differences(target, image, reach, step)
        costs.append(cost.unflatten(0, (len(fixed), -1)).movedim(1, axis))
    return costs


def mean_over_planes(parts: Sequence[Tensor]) -> Tensor:
    """Join what was found within each plane of a volume: for each axis the mean over the planes that have it.

    Args:
        parts: For each axis the components along the two others, (B, 2, *shape).

    Returns:
        (B, 3, *shape).

    Example:
        >>> parts = [torch.tensor(x).view(1, 2, 1, 1, 1) for x in ([2.0, 3.0], [1.0, 5.0], [1.0, 4.0])]
        >>> mean_over_planes(parts).flatten()
        tensor([1., 3., 4.])
    """
    along = [
        [part[:, axis - (axis > normal)] for normal, part in enumerate(parts) if normal != axis]
        for axis in range(len(parts))
    ]
    return torch.stack([torch.stack(components).mean(0) for components in along], dim=1)


def min_convolution(cost: Tensor, ndim: int) -> Tensor:
    """Approximate the lower envelope of parabolas rooted at a voxel's costs: what a neighbor may agree with.

    By the smallest cost within one label along each axis, averaged twice over such neighborhoods.

    Args:
        cost: (B, L, *shape).
        ndim: Number of axes along which the labels displace, 2 or 3.

    Returns:
        (B, L, *shape).
    """
    side = _side(cost, ndim)
    labels = cost.movedim(1, -1).reshape(-1, 1, *[side] * ndim)
    pool = {2: F.max_pool2d, 3: F.max_pool3d}[ndim]
    smallest = -pool(-labels, 3, stride=1, padding=1)[:, 0]
    result = local_mean(local_mean(smallest, 1), 1)
    return result.reshape(len(cost), *cost.shape[2:], -1).movedim(-1, 1)


def mean_over_neighbors(cost: Tensor) -> Tensor:
    """Average each label's costs (B, L, *shape) twice over a voxel's neighborhood: mean-field inference."""
    maps = cost.flatten(0, 1)
    return local_mean(local_mean(maps, 1), 1).view(cost.shape)


def displacement_moments(cost: Tensor, ndim: int, step: int = 1) -> tuple[Tensor, Tensor]:
    """Compute mean and variance of displacements whose probabilities are the softmax of negative costs.

    Args:
        cost: (B, L, *shape).
        ndim: Number of axes along which the labels displace.
        step: Distance of neighboring labels, voxels.

    Returns:
        The means and the variances along each of these axes, (B, ndim, *shape) both, voxels.
    """
    offsets = correlation_offsets(ndim, _side(cost, ndim) // 2, step, cost.device).to(cost.dtype)
    probabilities = torch.softmax(-cost, 1).movedim(1, -1)
    mean, square = ((probabilities @ x).movedim(-1, 1) for x in (offsets, offsets.square()))
    return mean, square - mean.square()


def expected_displacement(cost: Tensor, ndim: int, step: int = 1) -> Tensor:
    """Compute the mean alone of `displacement_moments`: (B, ndim, *shape), voxels."""
    return displacement_moments(cost, ndim, step)[0]


def _side(cost: Tensor, ndim: int) -> int:
    """Number of labels along one axis."""
    return round(cost.shape[1] ** (1 / ndim))
