"""Intensity differences over patches, and weights from them."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import uniform_filter

from atlasmith.core.grid import Array

PATCH = 5  # side of the patch, voxels
STABILIZER = 1e-4  # added to squared intensity differences in denominators


def patch_distances(images: Array, target: Array) -> Array:
    """Compute the mean squared intensity difference over the patch at each voxel.

    Args:
        images: (N, *shape), in [0, 1].
        target: (*shape), in [0, 1].

    Returns:
        (N, *shape).
    """
    return np.stack([uniform_filter(np.square(image - target), PATCH) for image in images])


def similarity_weights(distances: Array) -> Array:
    """Compute exp(-(d - h) / h) from patch distances d, with h that of the most similar atlas.

    Args:
        distances: (N, *shape), from `patch_distances`.

    Returns:
        Weights (N, *shape) in (0, 1]; the most similar atlas has 1.
    """
    best = distances.min(axis=0)
    weights: Array = np.exp(-(distances - best) / (best + STABILIZER)).astype(np.float32)
    return weights
