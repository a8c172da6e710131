"""Intensity differences over patches, and weights from them."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import uniform_filter

from atlasmith.core.grid import Array
from atlasmith.fusion.aligned import AlignedAtlases

PATCH = 5  # side of the patch, voxels
STABILIZER = 1e-4  # added to squared intensity differences in denominators


def patch_distances(atlases: AlignedAtlases) -> Array:
    """Compute the mean squared intensity difference over the patch at each voxel.

    The mean is over the channels of the target, and over the voxels of the patch where the target and an
    atlas are valid; 0 where there are none. In a channel that an atlas doesn't have, it counts as the mean of
    the others.

    Args:
        atlases: The atlases and the target.

    Returns:
        (N, *shape); infinite where an atlas has no vote.
    """
    channels = [_channel_distances(atlases, channel) for channel in atlases.shared_channels]
    distances = np.mean(channels, axis=0) if channels else np.zeros(atlases.labels.shape, np.float32)
    return distances if atlases.votes is None else np.where(atlases.votes, distances, np.inf)


def _channel_distances(atlases: AlignedAtlases, channel: int) -> Array:
    """The patch distances (N, *shape) of one channel, which some atlases have."""
    having, target = atlases.having(channel), atlases.target[channel]
    found = [
        _patch_means(np.square(image - target), None if atlases.both_valid is None else atlases.both_valid[k])
        for k, image in enumerate(atlases.images[channel])
        if having[k]
    ]
    known = np.stack(found)
    if having.all():
        return known
    votes = np.ones((len(known), *target.shape)) if atlases.votes is None else atlases.votes[having]
    mean = (known * votes).sum(axis=0) / np.maximum(votes.sum(axis=0), 1)
    distances = np.repeat(mean[None].astype(np.float32), len(having), axis=0)
    distances[having] = known
    return distances


def _patch_means(squares: Array, valid: Array | None) -> Array:
    """The mean (*shape) over the valid voxels of the patch at each voxel; 0 where there are none."""
    if valid is None:
        return uniform_filter(squares, PATCH)
    share = uniform_filter(valid.astype(np.float32), PATCH)
    known = share > 0.5 / PATCH**valid.ndim  # at least one voxel, whatever the rounding
    mean = uniform_filter(np.where(valid, squares, 0), PATCH)
    return np.divide(mean, share, out=np.zeros_like(mean), where=known)


def similarity_weights(distances: Array) -> Array:
    """Compute exp(-(d - h) / h) from patch distances d, with h that of the most similar atlas.

    Args:
        distances: (N, *shape), from `patch_distances`.

    Returns:
        Weights (N, *shape) in [0, 1]; the most similar atlas has 1.
    """
    best = distances.min(axis=0)
    weights: Array = np.exp(-(distances - best) / (best + STABILIZER)).astype(np.float32)
    return weights
