"""The classifiers of candidate labels, and their two passes.

The second pass knows the first pass's probabilities around a voxel, and the target's intensities where these
put a label (auto-context, Tu and Bai 2010, doi:10.1109/TPAMI.2009.186).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atlasmith.core.chunks import at_once
from atlasmith.fusion.autocontext.candidates import (
    Candidates,
    candidate_probabilities,
    find_candidates,
    label_positions,
)
from atlasmith.fusion.autocontext.features import (
    FEATURES,
    candidate_features,
    context_features,
    feature_counts,
)
from atlasmith.fusion.fuser import LabelProbabilities, Predictor
from atlasmith.fusion.propagated import PropagatedAtlases
from atlasmith.io.weights import read_network
from atlasmith.networks import CrossFitted
from atlasmith.training.device import select_device

EMBEDDING = 6  # size of a label's embedding
MIN_SHARE = 0.02  # added to shares of votes in logarithms
CPU_VOXELS, GPU_VOXELS = 2**11, 2**17  # of one forward pass


class CandidateClassifier(nn.Module):
    """Compares the candidate labels of a voxel by their features.

    It is initialized to the mean of the first two features: shares of votes, or probabilities of the first
    pass.

    Args:
        labels: The number of labels.
        width: Of the layers.
        features: The number of features.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, labels: int, width: int, features: int = FEATURES) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("deviation", torch.ones(features))
        self.embedding = nn.Embedding(labels, EMBEDDING)
        nn.init.normal_(self.embedding.weight, std=0.1)
        self.encode = nn.Linear(features + EMBEDDING, width)
        self.compare = nn.Linear(2 * width, width)
        self.score = nn.Linear(width, 1)
        nn.init.zeros_(self.score.weight)
        nn.init.zeros_(self.score.bias)
        self.score.bias.requires_grad_(False)  # it cancels in the softmax: its gradient would be rounding
        self.sharpness = nn.Parameter(torch.ones(()))

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """Compute the candidates' logits.

        Args:
            features: (B, K, features).
            labels: (B, K), positions among all labels, -1 for no candidate.

        Returns:
            (B, K), -inf for no candidate.
        """
        present = (labels >= 0)[..., None]
        standardized = (features - self.mean) / self.deviation
        inputs = torch.cat([standardized, self.embedding(labels.clamp(min=0))], dim=-1)
        encoded = F.leaky_relu(self.encode(inputs), 0.1) * present
        others = (encoded.sum(-2, keepdim=True) - encoded) / (present.sum(-2, keepdim=True) - 1).clamp(min=1)
        score = self.score(F.leaky_relu(self.compare(torch.cat([encoded, others], dim=-1)), 0.1))
        start = (features[..., :2].mean(-1) + MIN_SHARE).log()
        return torch.where(present, score + self.sharpness * start[..., None], -torch.inf)[..., 0]


def classify(classifier: CandidateClassifier, features: Sequence[Tensor], labels: Tensor) -> Tensor:
    """Compute the candidates' probabilities, a chunk of voxels at a time.

    Args:
        classifier: A trained classifier.
        features: Parts (M, K, ...) of its features, which are joined.
        labels: (M, K), positions among all labels, -1 for no candidate.

    Returns:
        (M, K), of sum 1, 0 for no candidate.
    """
    probabilities = torch.zeros_like(labels, dtype=torch.float32)
    # Most voxels have two or three candidates: those with as many are computed together.
    counts = (torch.arange(1, labels.shape[1] + 1, device=labels.device) * (labels >= 0)).amax(dim=1)
    size = at_once(labels.device, CPU_VOXELS, GPU_VOXELS)
    for count in counts.unique().tolist():
        for rows in torch.nonzero(counts == count)[:, 0].split(size):
            inputs = torch.cat([part[:, :count][rows] for part in features], dim=-1)
            probabilities[rows, :count] = classifier(inputs, labels[rows, :count]).softmax(-1)
    return probabilities


class AutoContext(nn.Module):
    """The classifiers of both passes, cross-fitted.

    A classifier of the second pass depends on the probabilities of that one of the first pass alone which was
    trained without the same atlases.

    Args:
        values: The labels, sorted, with background.
        width: Of the classifiers' layers.
        without: Ids of the atlases that each classifier is trained without.
        channels: Of the images.
    """

    values: Tensor

    def __init__(
        self, values: Sequence[int], width: int, without: Sequence[Sequence[str]], channels: int = 1
    ) -> None:
        super().__init__()
        self.register_buffer("values", torch.tensor(values, dtype=torch.int32), persistent=False)
        self.settings = {
            "values": list(values),
            "width": width,
            "without": [list(ids) for ids in without],
            "channels": channels,
        }
        own, context = feature_counts(channels)
        self.first, self.second = (
            CrossFitted([CandidateClassifier(len(values), width, features) for _ in without], without)
            for features in (own, context + own)
        )

    @torch.inference_mode()
    def probabilities(self, atlases: PropagatedAtlases, subject: str) -> LabelProbabilities:
        """Compute each label's probability on one target.

        Args:
            atlases: The propagated atlases.
            subject: The target's id; of an atlas, only classifiers that were trained without it are applied.

        Returns:
            Each label, in rising order, its box, and its probability there: the classifiers' where atlases
            disagree, 1 where they agree. Where the target is excluded, it is the share of the votes.
        """
        candidates = find_candidates(atlases)
        features = candidate_features(atlases, candidates)
        labels = label_positions(candidates.labels, self.values)
        passes = zip(self.first.for_subject(subject), self.second.for_subject(subject), strict=True)
        probabilities = []
        for first, second in passes:
            context = first_pass_context(first, atlases, candidates, features, labels)
            probabilities.append(classify(second, [context, features], labels))
        mean = torch.stack(probabilities).mean(dim=0)
        return candidate_probabilities(candidates, where_comparable(atlases, candidates, mean, features))


def first_pass_context(
    first: CandidateClassifier,
    atlases: PropagatedAtlases,
    candidates: Candidates,
    features: Tensor,
    labels: Tensor,
) -> Tensor:
    """Compute the context features (M, K, context features) of the first pass by one classifier.

    Args:
        first: Of the first pass.
        atlases: The propagated atlases.
        candidates: Of the voxels where they disagree.
        features: (M, K, features).
        labels: (M, K), positions among all labels, -1 for no candidate.
    """
    found = classify(first, [features], labels)
    return context_features(atlases, candidates, where_comparable(atlases, candidates, found, features))


def where_comparable(
    atlases: PropagatedAtlases, candidates: Candidates, probabilities: Tensor, features: Tensor
) -> Tensor:
    """Replace probabilities (M, K) by the shares of the votes where the target is excluded."""
    if atlases.comparable is None:
        return probabilities
    comparable = atlases.comparable.flatten()[candidates.voxels, None]
    return torch.where(comparable, probabilities, features[..., 0])  # the first feature: shares


def read_predictor(path: Path, device: str) -> Predictor:
    """Read trained classifiers onto a device (`auto`, `cpu` or `cuda`), and return their `probabilities`."""
    return read_network(path, AutoContext).to(select_device(device)).probabilities
