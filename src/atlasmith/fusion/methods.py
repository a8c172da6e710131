"""Fusion methods, by name: each says how much an atlas's vote weighs at each voxel; `plurality` counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import find_objects, uniform_filter

from atlasmith.geometry import Array

PATCH = 5  # voxels a side of the patch that local weights compare


@dataclass(frozen=True, eq=False)
class Votes:
    """What a method may look at, on one grid.

    labels: (N, *shape) integers, one map an atlas. images: (N, *shape), the warped atlas images, and
    target: (*shape), all normalised to [0, 1]. trust: gives (N, *shape), VoteNet's probability that the
    atlas's label is right, when a method asks. sharpness: the power that soft trust is raised to.
    """

    labels: Array
    images: Array
    target: Array
    trust: Callable[[], Array]
    sharpness: float = 1.0


def majority(votes: Votes) -> Array:
    """Equal weights (N, *shape)."""
    return np.ones(votes.labels.shape, dtype=np.float32)


def local_weighted(votes: Votes) -> Array:
    """exp(-d / h) with d the mean squared intensity difference over a patch and h that of the best atlas, as
    in patch-based segmentation (Coupe et al. 2011, doi:10.1016/j.neuroimage.2010.09.018)."""
    distance = np.stack([uniform_filter(np.square(image - votes.target), PATCH) for image in votes.images])
    best = distance.min(axis=0)
    weights: Array = np.exp(-(distance - best) / (best + 1e-4)).astype(np.float32)
    return weights


def votenet(votes: Votes) -> Array:
    """Soft votes: VoteNet's trust, sharpened (after Ding et al. 2019, doi:10.1007/978-3-030-32248-9_23)."""
    return _sharpened(votes.trust(), votes.sharpness)


def _sharpened(trust: Array, sharpness: float) -> Array:
    """`trust` to a power, relative to the most trusted atlas: small trust in all of them must not vanish."""
    most = np.maximum(trust.max(axis=0), np.finfo(trust.dtype).tiny)
    weights: Array = (trust / most) ** sharpness
    return weights


def votenet_hard(votes: Votes) -> Array:
    """VoteNet as published: an atlas that is trusted above one half has one vote. Where none is, the soft
    votes decide."""
    trust = votes.trust()
    trusted = (trust >= 0.5).astype(np.float32)
    return np.where(trusted.any(axis=0), trusted, _sharpened(trust, votes.sharpness))


FUSERS: dict[str, Callable[[Votes], Array]] = {
    "majority": majority,
    "local_weighted": local_weighted,
    "votenet": votenet,
    "votenet_hard": votenet_hard,
}


def shares(labels: Array, weights: Array) -> Iterator[tuple[int, tuple[slice, ...], Array]]:
    """Each label, in rising order, with its bounding box and the share of the weight it has inside.

    labels, weights: (N, *shape). The shares have the shape of the box; outside it they are zero. One label
    at a time, so memory doesn't grow with their number.
    """
    total = np.maximum(weights.sum(axis=0), np.finfo(np.float32).tiny)
    values, index = np.unique(labels, return_inverse=True)
    for value, where in zip(values, find_objects(index.reshape(labels.shape) + 1), strict=True):
        box = where[1:]
        yield int(value), box, np.where(labels[where] == value, weights[where], 0).sum(axis=0) / total[box]


def plurality(labels: Array, weights: Array) -> tuple[Array, Array]:
    """The label with the largest weight and its share of the whole, each (*shape).

    Ties go to the smallest label.
    """
    winner = np.zeros(labels.shape[1:], dtype=np.int32)
    best = np.full(labels.shape[1:], -1, dtype=np.float32)
    for value, box, share in shares(labels, weights):
        better = share > best[box]
        winner[box][better] = value
        best[box][better] = share[better]
    return winner, best
