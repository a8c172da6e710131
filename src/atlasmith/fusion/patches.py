"""Intensity differences over patches, and weights from them."""

from __future__ import annotations

import torch
from torch import Tensor

from atlasmith.fusion.aligned import AlignedAtlases
from atlasmith.losses.similarity.filters import box_mean

PATCH = 5  # side of the patch, voxels
STABILIZER = 1e-4  # added to squared intensity differences in denominators


def patch_distances(atlases: AlignedAtlases) -> Tensor:
    """Compute the mean squared intensity difference over the patch at each voxel.

    The mean is over the channels of the target, and over the voxels of the patch where the target and an
    atlas are valid; 0 where there are none. In a channel that an atlas doesn't have, it counts as the mean of
    the others.

    Args:
        atlases: The atlases and the target.

    Returns:
        (N, *shape); infinite where an atlas has no vote.
    """
    distances = torch.zeros_like(atlases.images[0])
    for channel in atlases.shared_channels:
        _add_distances(distances, atlases, channel)
    distances /= max(len(atlases.shared_channels), 1)
    return distances if atlases.votes is None else distances.masked_fill_(~atlases.votes, torch.inf)


def _add_distances(distances: Tensor, atlases: AlignedAtlases, channel: int) -> None:
    """Add those of one channel, which some atlases have, atlas by atlas: memory holds no second stack."""
    having, target = atlases.having(channel), atlases.target[channel]
    total, count = torch.zeros_like(target), torch.zeros_like(target)
    for k in having.nonzero()[0]:
        valid = None if atlases.both_valid is None else atlases.both_valid[k]
        own = _patch_means((atlases.images[channel, k] - target).square(), valid)
        distances[k] += own
        if not having.all():
            voting = torch.ones_like(target) if atlases.votes is None else atlases.votes[k]
            total += own * voting
            count += voting
    for k in (~having).nonzero()[0]:
        distances[k] += total / count.clamp(min=1)


def _patch_means(squares: Tensor, valid: Tensor | None) -> Tensor:
    """The mean (*shape) over the valid voxels of the patch at each voxel; 0 where there are none."""
    if valid is None:
        return patch_mean(squares)
    share = patch_mean(valid.float())
    known = share > 0.5 / PATCH**valid.ndim  # at least one voxel, whatever the rounding
    return (patch_mean(squares * valid) / share).where(known, 0)


def patch_mean(image: Tensor) -> Tensor:
    """Average an image (*shape) of any size over the patch at each voxel; beyond its edges it is mirrored."""
    for axis, size in enumerate(image.shape):
        index = torch.arange(-(PATCH // 2), size + PATCH // 2, device=image.device) % (2 * size)
        image = image.index_select(axis, torch.minimum(index, 2 * size - 1 - index))
    return box_mean(image[None, None], [PATCH] * image.ndim)[0, 0]


def similarity_weights(distances: Tensor) -> Tensor:
    """Compute exp(-(d - h) / h) from patch distances d, with h that of the most similar atlas.

    Args:
        distances: (N, *shape), from `patch_distances`.

    Returns:
        Weights (N, *shape) in [0, 1]; the most similar atlas has 1.
    """
    best = distances.amin(dim=0)
    return (best - distances).div_(best + STABILIZER).exp_()
