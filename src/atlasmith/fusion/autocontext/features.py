"""Features of each candidate label at each voxel, which mean the same whatever the label.

How many atlases vote for it there and around, how well these atlases fit the target's intensities, and
whether the target's intensity is the label's in this target, and nearby. This joins label fusion with
corrective learning (Wang and Yushkevich 2013, doi:10.3389/fninf.2013.00027) and local label learning (Hao et
al. 2014, doi:10.1002/hbm.22359). Context features are those of the first pass's probabilities. Intensity
features are computed for each channel; excluded voxels define no label's intensity.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain

import torch
from torch import Tensor

from atlasmith.fusion.aligned import AlignedAtlases
from atlasmith.fusion.autocontext.candidates import Candidates, at_voxels, voxels_at_once
from atlasmith.fusion.autocontext.neighborhoods import (
    MIN_DEVIATION,
    STABILIZING_WEIGHT,
    Averages,
    Neighborhood,
    Target,
)
from atlasmith.fusion.patches import STABILIZER, patch_distances, similarity_weights

FEATURES, CHANNEL_FEATURES = 18, 9  # of one channel, and of each further one
CONTEXT_FEATURES, CONTEXT_CHANNEL_FEATURES = 9, 5
CERTAIN = 0.9  # share of votes from which on a voxel defines a label's intensity
MIN_CERTAIN = 20  # such voxels; where there are fewer, less certain ones define it
MAX_DEVIATIONS = 5.0  # intensity differences in SDs are clipped to this


def feature_counts(channels: int) -> tuple[int, int]:
    """Count the features of a candidate, and its context features, with so many channels."""
    more = channels - 1
    return FEATURES + more * CHANNEL_FEATURES, CONTEXT_FEATURES + more * CONTEXT_CHANNEL_FEATURES


def candidate_features(atlases: AlignedAtlases, candidates: Candidates) -> Tensor:
    """Compute the features of all candidates.

    Args:
        atlases: The propagated atlases.
        candidates: Of the voxels where they disagree.

    Returns:
        (M, K, features); the first two are the label's share of the votes, and of locally weighted votes. 0
        where there is no candidate.
    """
    count = feature_counts(len(atlases.target))[0]
    if not len(candidates.voxels):
        return atlases.target.new_zeros(*candidates.labels.shape, count)
    fits = _atlas_fits(atlases, candidates)

    def features(label: Neighborhood, part: slice) -> list[Tensor]:
        return _label_features(label, candidates.shares[part], fits[:, part])

    return _of_each_label(atlases, candidates, count, features)


def context_features(atlases: AlignedAtlases, candidates: Candidates, probabilities: Tensor) -> Tensor:
    """Compute the features that the first pass's probabilities add.

    Args:
        atlases: The propagated atlases.
        candidates: Of the voxels where they disagree.
        probabilities: (M, K), of the first pass.

    Returns:
        (M, K, context features); the first two are the label's probability there, and its mean around.
    """
    count = feature_counts(len(atlases.target))[1]
    own = candidates.at_votes(probabilities)
    return _of_each_label(atlases, candidates, count, lambda label, part: _label_context(label, own[part]))


def _of_each_label(
    atlases: AlignedAtlases,
    candidates: Candidates,
    count: int,
    function: Callable[[Neighborhood, slice], list[Tensor]],
) -> Tensor:
    """The features (M, K, count) of all candidates, of those (V,) of a label at its part of the votes."""
    # The last row is of labels that are no candidates.
    features = atlases.target.new_zeros(candidates.labels.numel() + 1, count)
    target = Target(atlases, candidates)
    for value, box, part in candidates.boxes:
        if part.start < part.stop:
            found = function(Neighborhood(target, value, box, part), part)
            features[candidates.slots[part]] = torch.stack(found, dim=1)
    return features[:-1].view(*candidates.labels.shape, count)


def _label_features(label: Neighborhood, shares: Tensor, fits: Tensor) -> list[Tensor]:
    """The features (V,) of a label at its V votes, of their shares and of `_atlas_fits` (2 + 2 C, V)."""
    weighted, excess, *differences = fits
    votes, weights = label.map_of(shares), label.map_of(weighted)
    certain = _certain_voxels(votes, label.comparable)
    count = certain.sum()
    centers = [(image * certain).sum() / count for image in label.images]
    around = label.averages([votes, weights], label.comparable_part(weights), centers)
    found = [shares, weighted, *(maps[0] for maps in around.means), around.means[0][1]]
    for channel, center in enumerate(centers):
        variance = (certain * (label.images[channel] - center).square()).sum() / count
        plain, local = _intensity_features(label, around, channel, center, variance)
        found += [*plain, *chain.from_iterable((near, deviation.log()) for near, deviation in local)]
    found += [*differences, excess, *map(around.alignment, label.gradients)]
    return [*found, torch.full_like(shares, label.value == 0), (count.log() / 10).expand_as(shares)]


def _label_context(label: Neighborhood, probability: Tensor) -> list[Tensor]:
    """The context features (V,) of a label at its V votes, of their probabilities (V,)."""
    own = label.map_of(probability)
    weights = label.comparable_part(own)
    total = weights.sum() + STABILIZING_WEIGHT
    centers = [(weights * image).sum() / total for image in label.images]
    around = label.averages([own], weights, centers)
    found = [probability, *(maps[0] for maps in around.means)]
    for channel, center in enumerate(centers):
        variance = (weights * (label.images[channel] - center).square()).sum() / total
        plain, local = _intensity_features(label, around, channel, center, variance)
        found += [*plain, *(near for near, _ in local), around.alignment(label.gradients[channel])]
    return found


def _intensity_features(
    label: Neighborhood, around: Averages, channel: int, center: Tensor, variance: Tensor
) -> tuple[list[Tensor], list[tuple[Tensor, Tensor]]]:
    """The differences (V,) of the target, as it is and smoothed, to a label's mean intensity, in SDs; and
    those to the label's local mean, with the local SD, of each radius."""
    deviation = variance.sqrt() + MIN_DEVIATION
    difference, smoothed = label.intensities[channel] - center, label.smoothed[channel] - center
    local = around.intensities(channel, deviation)
    return (
        [_clipped(difference / deviation), _clipped(smoothed / deviation)],
        [(_clipped((difference - mean) / sd), sd) for mean, sd in local],
    )


def _certain_voxels(votes: Tensor, comparable: Tensor | None) -> Tensor:
    """The voxels (*box) that define a label's intensity, of its share of the votes (*box)."""
    if comparable is not None:
        votes = votes.where(comparable | ~comparable.any(), -1)
    certain = votes > CERTAIN
    likely = votes >= (0.8 * votes.amax().clamp(min=0)).clamp(max=0.5)
    return certain.where(certain.sum() >= MIN_CERTAIN, likely)


def _atlas_fits(atlases: AlignedAtlases, candidates: Candidates) -> Tensor:
    """How well the atlases that give a vote fit the target's intensities there (2 + 2 C, E).

    The share of its label of locally weighted votes; how much larger the patch distance of the closest of its
    atlases is than that of the closest of all; and, for each channel, their mean absolute and signed
    difference.
    """
    voxels, voting = candidates.voxels, None
    labels, distances = at_voxels(atlases.labels, voxels), at_voxels(patch_distances(atlases), voxels)
    weights, best = similarity_weights(distances), distances.amin(dim=0)
    weights /= weights.sum(dim=0)
    mean = distances.mean(dim=0)
    if atlases.votes is not None:
        voting = at_voxels(atlases.votes, voxels)
        mean = distances.masked_fill(~voting, 0).sum(dim=0) / voting.sum(dim=0)
    contrast = _median(mean).sqrt() + 1e-3
    differences = [
        at_voxels(images, voxels) - at_voxels(target[None], voxels)
        for images, target in zip(atlases.images, atlases.target, strict=True)
    ]
    present = None
    if atlases.present is not None:
        present = torch.from_numpy(atlases.present).to(labels.device)[..., None]
    found = []
    size = voxels_at_once(atlases)
    for rows, values in zip(candidates.rows.split(size), candidates.vote_labels.split(size), strict=True):
        has_label = labels.index_select(1, rows) == values
        if voting is not None:
            has_label &= voting.index_select(1, rows)
        closest = distances.index_select(1, rows).masked_fill_(~has_label, torch.inf).amin(dim=0)
        excess = (closest - best[rows]) / (best[rows] + STABILIZER)
        fits = [(weights.index_select(1, rows) * has_label).sum(dim=0), excess.clamp(max=MAX_DEVIATIONS)]
        for channel, difference in enumerate(differences):
            having = has_label if present is None else has_label & present[channel]
            own = difference.index_select(1, rows) * having
            scale = having.sum(dim=0).clamp(min=1) * contrast
            fits += [own.abs().sum(dim=0) / scale, own.sum(dim=0) / scale]
        found.append(torch.stack(fits))
    return torch.cat(found, dim=1)


def _median(values: Tensor) -> Tensor:
    """The median of values (M,): of an even number, the mean of both in the middle."""
    ordered = values.sort().values
    return (ordered[(len(values) - 1) // 2] + ordered[len(values) // 2]) / 2


def _clipped(deviation: Tensor) -> Tensor:
    return deviation.clamp(-MAX_DEVIATIONS, MAX_DEVIATIONS)
