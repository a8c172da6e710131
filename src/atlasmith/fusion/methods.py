"""Fusion methods, by name: each gives every label's share of the say at every voxel; `plurality` decides."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from scipy.ndimage import find_objects, uniform_filter

from atlasmith.config.schema import FusionSection
from atlasmith.core.errors import look_up
from atlasmith.core.grid import Array
from atlasmith.core.labels import bounding_boxes

PATCH = 5  # voxels a side of the patch that local weights compare
RIDGE = 0.1  # of joint weights

Box = tuple[slice, ...]
# A label, a box of the grid, and the label's share within (*box), from 0 to 1; it is zero outside.
Share = tuple[int, Box, Array]


@dataclass(frozen=True, eq=False)
class Votes:
    """What a method may look at, on one grid.

    labels: (N, *shape) integers, one map an atlas. images: (N, *shape), the warped atlas images, and
    target: (*shape), all normalized to [0, 1]. When a method asks, trust gives (N, *shape), VoteNet's
    probability that the atlas's label is right, correlation (N, N), how these errors go together, and verdict
    the shares that the trained jury decides. settings: what the config says about fusion.
    """

    labels: Array
    images: Array
    target: Array
    trust: Callable[[], Array]
    correlation: Callable[[], Array]
    verdict: Callable[[], Iterator[Share]]
    settings: FusionSection = field(default_factory=FusionSection)


Weigher = Callable[[Votes], Array]
Fuser = Callable[[Votes], Iterator[Share]]


def majority(votes: Votes) -> Array:
    """Equal weights (N, *shape)."""
    return np.ones(votes.labels.shape, dtype=np.float32)


def local_weighted(votes: Votes) -> Array:
    """exp(-d / h) with d the mean squared intensity difference over a patch and h that of the best atlas, as
    in patch-based segmentation (Coupe et al. 2011, doi:10.1016/j.neuroimage.2010.09.018)."""
    return closeness(patch_distances(votes.images, votes.target))


def local_selection(votes: Votes) -> Array:
    """Equal weights for the atlases that look most like the target around a voxel, none for others: atlas
    selection (Aljabar et al. 2009, doi:10.1016/j.neuroimage.2009.02.018), voxel by voxel."""
    distances = patch_distances(votes.images, votes.target)
    last = min(votes.settings.local_selection, len(distances)) - 1
    chosen: Array = (distances <= np.partition(distances, last, axis=0)[last]).astype(np.float32)
    return chosen


def patch_distances(images: Array, target: Array) -> Array:
    """The mean squared difference (N, *shape) of each image (N, *shape) to the target over a patch."""
    return np.stack([uniform_filter(np.square(image - target), PATCH) for image in images])


def closeness(distances: Array) -> Array:
    """Weights in (0, 1] from `patch_distances`; the closest atlas has 1."""
    best = distances.min(axis=0)
    weights: Array = np.exp(-(distances - best) / (best + 1e-4)).astype(np.float32)
    return weights


def votenet(votes: Votes) -> Array:
    """Soft votes: VoteNet's trust, sharpened (after Ding et al. 2019, doi:10.1007/978-3-030-32248-9_23)."""
    return _sharpened(votes.trust(), votes.settings.votenet.sharpness)


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
    return np.where(trusted.any(axis=0), trusted, votenet(votes))


def votenet_plus(votes: Votes) -> Array:
    """Joint weights, as joint label fusion's, from VoteNet's probabilities p of being wrong in place of
    intensities (after VoteNet+, Ding, Han and Niethammer 2020, ISBI). Where atlases err together as often as
    their rates say, these are (p p^T + RIDGE I)^-1 1, by the formula of Sherman and Morrison."""
    wrong = 1 - votes.trust()
    together = wrong.sum(axis=0) / (RIDGE + np.square(wrong).sum(axis=0))
    weights: Array = np.maximum(1 - wrong * together, 0)
    return weights


def votenet_joint(votes: Votes) -> Array:
    """As `votenet_plus`, where atlases err together as they did on each other in training."""
    from atlasmith.fusion.jlf import correlated_weights

    where = (votes.labels != votes.labels[0]).any(axis=0)
    wrong = torch.from_numpy(1 - votes.trust()[:, where].T)
    weights = majority(votes)
    found = correlated_weights(wrong, torch.from_numpy(votes.correlation()), RIDGE).T.numpy()
    weights[:, where] = np.where(found.any(axis=0), found, 1)  # correlations that don't fit leave nobody
    return weights


def shares(labels: Array, weights: Array) -> Iterator[Share]:
    """Each label, in rising order, with its bounding box and the share of the weight it has inside.

    labels, weights: (N, *shape). One label at a time, so memory doesn't grow with their number.
    """
    total = np.maximum(weights.sum(axis=0), np.finfo(np.float32).tiny)
    for value, where in bounding_boxes(labels):
        box = where[1:]
        yield value, box, np.where(labels[where] == value, weights[where], 0).sum(axis=0) / total[box]


def _weighted(weigh: Weigher, votes: Votes) -> Iterator[Share]:
    return shares(votes.labels, weigh(votes))


def staple(votes: Votes) -> Iterator[Share]:
    """STAPLE (Warfield et al. 2004, doi:10.1109/TMI.2004.828354), for any number of labels."""
    from atlasmith.fusion.staple import posterior

    return posterior(votes.labels)


def jlf(votes: Votes) -> Iterator[Share]:
    """Joint label fusion (Wang et al. 2013, doi:10.1109/TPAMI.2012.143)."""
    from atlasmith.fusion.jlf import joint_label_fusion

    return joint_label_fusion(votes.labels, votes.images, votes.target, votes.settings.jlf)


def evidence(votes: Votes) -> Iterator[Share]:
    """Each label's case at each disputed voxel, weighed by a network (`atlasmith.fusion.autocontext`)."""
    return votes.verdict()


FUSERS: dict[str, Fuser] = {
    "majority": partial(_weighted, majority),
    "local_weighted": partial(_weighted, local_weighted),
    "local_selection": partial(_weighted, local_selection),
    "staple": staple,
    "jlf": jlf,
    "votenet": partial(_weighted, votenet),
    "votenet_hard": partial(_weighted, votenet_hard),
    "votenet_plus": partial(_weighted, votenet_plus),
    "votenet_joint": partial(_weighted, votenet_joint),
    "autocontext": evidence,
}


def fuse(method: str, votes: Votes) -> Iterator[Share]:
    """The shares that `method` gives, by name, with the prior that the config asks for.

    All atlases come through the template, so that the share of their votes is the template's probability of a
    label, as it lies on this target; of an atlas, without its own labels. Each label's share is multiplied by
    a power of it, `fusion.prior`. Where no label has a share of `fusion.prior_fallback`, as where no atlas is trusted,
    it decides alone.
    """
    said, settings = look_up(FUSERS, method, "fusion method")(votes), votes.settings
    if not (settings.prior or settings.prior_fallback):
        return said
    return _followed(said, votes)


def _followed(said: Iterator[Share], votes: Votes) -> Iterator[Share]:
    settings, shape = votes.settings, votes.labels.shape[1:]

    def prior(value: int, box: Box) -> Array:
        share: Array = (votes.labels[:, *box] == value).mean(axis=0, dtype=np.float32)
        return share

    total, best = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    weighed = []
    for value, whole, wide in said:
        if not (inside := find_objects((wide > 0).view(np.int8))):
            continue
        box = tuple(slice(w.start + i.start, w.start + i.stop) for w, i in zip(whole, inside[0], strict=True))
        share = wide[inside[0]] * prior(value, box) ** settings.prior
        total[box] += share
        weighed.append((value, box, share))
    known = total > 0
    total[~known] = 1
    for _, box, share in weighed:
        best[box] = np.maximum(best[box], share / total[box])
    sure = known & (best >= settings.prior_fallback)
    for value, box, share in weighed:
        yield value, box, np.where(sure[box], share / total[box], prior(value, box))


def plurality(votes: Iterable[Share], shape: Sequence[int]) -> tuple[Array, Array]:
    """The label with the largest share and that share, each (*shape); ties go to the smallest label."""
    winner = np.zeros(shape, dtype=np.int32)
    best = np.full(shape, -1, dtype=np.float32)
    for value, box, share in votes:
        better = share > best[box]
        winner[box][better] = value
        best[box][better] = share[better]
    return winner, best
