"""Features of each candidate label at each voxel, which mean the same whatever the label.

How many atlases vote for it there and around, how well these atlases fit the target's intensities, and
whether the target's intensity is the label's in this target, and nearby. This joins label fusion with
corrective learning (Wang and Yushkevich 2013, doi:10.3389/fninf.2013.00027) and local label learning (Hao et
al. 2014, doi:10.1002/hbm.22359). Context features are those of the first pass's probabilities. Intensity
features are computed for each channel; excluded voxels define no label's intensity.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.ndimage import uniform_filter

from atlasmith.core.grid import Array
from atlasmith.fusion.aligned import Box
from atlasmith.fusion.autocontext.candidates import Candidates, candidate_positions, candidate_probabilities
from atlasmith.fusion.patches import STABILIZER, patch_distances, similarity_weights
from atlasmith.fusion.propagated import PropagatedAtlases, ambiguous_voxels

FEATURES, CHANNEL_FEATURES = 18, 9  # of one channel, and of each further one
CONTEXT_FEATURES, CONTEXT_CHANNEL_FEATURES = 9, 5
VOTE_RADII = (0, 1, 2, 4)  # of means of votes and of probabilities, voxels
INTENSITY_RADII = (2, 4)  # of the neighborhoods for local intensity statistics, voxels
CERTAIN = 0.9  # share of votes from which on a voxel defines a label's intensity
MIN_CERTAIN = 20  # such voxels; where there are fewer, less certain ones define it
MIN_DEVIATION = 0.02  # SD of a label's intensities at least; intensities are in [0, 1]
MAX_DEVIATIONS = 5.0  # intensity differences in SDs are clipped to this
STABILIZING_WEIGHT = 1e-3  # of the whole label's intensities in local statistics


def feature_counts(channels: int) -> tuple[int, int]:
    """Count the features of a candidate, and its context features, with so many channels."""
    more = channels - 1
    return FEATURES + more * CHANNEL_FEATURES, CONTEXT_FEATURES + more * CONTEXT_CHANNEL_FEATURES


def candidate_features(atlases: PropagatedAtlases, candidates: Candidates) -> Array:
    """Compute the features of all candidates.

    Args:
        atlases: The propagated atlases.
        candidates: Of some or all voxels where they disagree.

    Returns:
        (M, K, features); the first two are the label's share of the votes, and of locally weighted votes. 0
        where there is no candidate.
    """
    count = feature_counts(len(atlases.target))[0]
    features = np.zeros((*candidates.labels.shape, count), dtype=np.float32)
    if len(candidates.voxels):
        extractor = _FeatureExtractor(atlases)
        for value, wide, mask, entries in candidate_positions(candidates, atlases.labels.shape[1:]):
            if mask.any():
                features[entries] = extractor.features(value, wide)[:, mask].T
    return features


def context_features(atlases: PropagatedAtlases, candidates: Candidates, probabilities: Array) -> Array:
    """Compute the features that the first pass's probabilities add.

    Args:
        atlases: The propagated atlases.
        candidates: Of all voxels where they disagree.
        probabilities: (M, K), of the first pass.

    Returns:
        (M, K, context features); the first two are the label's probability there, and its mean around.
    """
    count = feature_counts(len(atlases.target))[1]
    features = np.zeros((*candidates.labels.shape, count), dtype=np.float32)
    gradients = [_gradient(channel) for channel in atlases.target]
    positions = candidate_positions(candidates, atlases.labels.shape[1:])
    maps = candidate_probabilities(atlases, candidates, probabilities)
    for (_, wide, mask, entries), (_, box, label_map) in zip(positions, maps, strict=True):
        if not mask.any():
            continue
        probability = np.zeros(mask.shape, dtype=np.float32)
        inner = (slice(b.start - w.start, b.stop - w.start) for b, w in zip(box, wide, strict=True))
        probability[tuple(inner)] = label_map
        found = [probability, *(_mean(probability, radius) for radius in VOTE_RADII[1:])]
        weights = probability if atlases.comparable is None else probability * atlases.comparable[wide]
        for channel, gradient in zip(atlases.target, gradients, strict=True):
            target = channel[wide]
            mean, deviation = _weighted_moments(target, weights)
            found += [*_intensity_deviations(target, mean, deviation)]
            found += [local for local, _ in _local_intensity_deviations(target, weights, mean, deviation)]
            found += [_gradient_alignment(_mean(probability, 1), gradient[:, *wide])]
        features[entries] = np.stack(found)[:, mask].T
    return features


class _FeatureExtractor:
    """Computes the features of any label on one target."""

    def __init__(self, atlases: PropagatedAtlases) -> None:
        self.atlases = atlases
        self.distances = patch_distances(atlases)
        self.weights = similarity_weights(self.distances)
        self.weights /= self.weights.sum(axis=0)
        self.best = self.distances.min(axis=0)
        usual = np.median(atlases.mean_over_votes(self.distances).ravel()[ambiguous_voxels(atlases)])
        self.contrast = float(np.sqrt(usual)) + 1e-3
        self.gradients = [_gradient(channel) for channel in atlases.target]

    def features(self, value: int, box: Box) -> Array:
        """The features (features, *box) of a label."""
        atlases = self.atlases
        has_label = atlases.voting(value, box)
        targets = [channel[box] for channel in atlases.target]
        votes = atlases.share_of(has_label, box).astype(np.float32)
        weighted = np.where(has_label, self.weights[:, *box], 0).sum(axis=0)
        found = [votes, weighted, *(_mean(votes, r) for r in VOTE_RADII[1:]), _mean(weighted, 1)]

        # Against the label's intensities in this target: where atlases agree on it, and nearby.
        certain = self._certain_voxels(votes, box)
        weights = weighted if atlases.comparable is None else weighted * atlases.comparable[box]
        for target in targets:
            mean, deviation = target[certain].mean(), target[certain].std() + MIN_DEVIATION
            found += [*_intensity_deviations(target, mean, deviation)]
            for local, local_deviation in _local_intensity_deviations(target, weights, mean, deviation):
                found += [local, np.log(local_deviation)]

        # How well the atlases with this label fit here.
        for index, target in enumerate(targets):
            found += self._differences(has_label, index, target, box)
        closest = np.where(has_label, self.distances[:, *box], np.inf).min(axis=0)
        excess = (closest - self.best[box]) / (self.best[box] + STABILIZER)
        found += [np.minimum(excess, MAX_DEVIATIONS)]

        # Whether its boundary lies along an edge of the target.
        around = _mean(votes, 1)
        found += [_gradient_alignment(around, gradient[:, *box]) for gradient in self.gradients]
        found += [np.full_like(votes, value == 0), np.full_like(votes, np.log(certain.sum()) / 10)]
        return np.stack(found).astype(np.float32)

    def _certain_voxels(self, votes: Array, box: Box) -> Array:
        """The voxels (*box) that define a label's intensity, of its share of the votes (*box)."""
        known = np.ones(votes.shape, dtype=bool)
        if self.atlases.comparable is not None and self.atlases.comparable[box].any():
            known = self.atlases.comparable[box]
        certain: Array = (votes > CERTAIN) & known
        if certain.sum() < MIN_CERTAIN:
            certain = (votes >= min(0.5, 0.8 * votes.max(where=known, initial=0))) & known
        return certain

    def _differences(self, has_label: Array, channel: int, target: Array, box: Box) -> list[Array]:
        """The mean absolute and signed difference of the atlases with a label (N, *box) in one channel."""
        if self.atlases.present is not None:
            has_label = has_label & self.atlases.present[channel].reshape(-1, *[1] * target.ndim)
        difference = np.where(has_label, self.atlases.images[channel][:, *box] - target, 0)
        count = np.maximum(has_label.sum(axis=0), 1)
        return [x.sum(axis=0) / count / self.contrast for x in (np.abs(difference), difference)]


def _mean(data: Array, radius: int) -> Array:
    return uniform_filter(data, 2 * radius + 1, mode="nearest") if radius else data


def _gradient(data: Array) -> Array:
    """(d, *shape), 0 along axes of one voxel."""
    return np.stack(
        [np.gradient(data, axis=a) if n > 1 else np.zeros_like(data) for a, n in enumerate(data.shape)]
    )


def _gradient_alignment(probability: Array, gradient: Array) -> Array:
    """The cosine between the gradients of a label's probability (*box) and of the target (d, *box)."""
    own = _gradient(probability)
    lengths = np.sqrt(np.square(own).sum(axis=0) * np.square(gradient).sum(axis=0))
    cosine: Array = (own * gradient).sum(axis=0) / (lengths + 1e-3)
    return cosine


def _weighted_moments(target: Array, weights: Array) -> tuple[float, float]:
    """The weighted mean and SD of intensities, the latter with `MIN_DEVIATION`."""
    total = weights.sum() + STABILIZING_WEIGHT
    mean = float((weights * target).sum() / total)
    return mean, float(np.sqrt((weights * np.square(target - mean)).sum() / total) + MIN_DEVIATION)


def _intensity_deviations(target: Array, mean: float, deviation: float) -> list[Array]:
    """The differences of the target, as it is and smoothed, to a label's mean intensity, in SDs."""
    return [_clipped((_mean(target, radius) - mean) / deviation) for radius in (0, 1)]


def _local_intensity_deviations(
    target: Array, weights: Array, mean: float, deviation: float
) -> Iterator[tuple[Array, Array]]:
    """The differences of the target to the label's local mean intensity in SDs, and this SD, for each radius.

    weights: (*box), of the label. Where it has no weight nearby, its statistics in the whole target count.
    """
    for radius in INTENSITY_RADII:
        total = _mean(weights, radius) + STABILIZING_WEIGHT
        near = (_mean(weights * target, radius) + STABILIZING_WEIGHT * mean) / total
        squares = _mean(weights * np.square(target), radius) + STABILIZING_WEIGHT * (mean**2 + deviation**2)
        local = np.sqrt(np.maximum(squares / total - np.square(near), 0) + MIN_DEVIATION**2)
        yield _clipped((target - near) / local), local


def _clipped(deviation: Array) -> Array:
    return np.clip(deviation, -MAX_DEVIATIONS, MAX_DEVIATIONS)
