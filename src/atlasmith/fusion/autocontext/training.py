"""Training of the classifiers on the atlases, propagated to each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from atlasmith.config import Config
from atlasmith.core.progress import track
from atlasmith.fusion.autocontext.candidates import Candidates, find_candidates, label_positions
from atlasmith.fusion.autocontext.features import candidate_features
from atlasmith.fusion.autocontext.model import (
    AutoContext,
    CandidateClassifier,
    first_pass_context,
)
from atlasmith.fusion.autocontext.settings import FIRST_PASS, SECOND_PASS, SECTION, AutoContextSettings
from atlasmith.fusion.propagated import (
    PropagatedAtlases,
    manual_labels,
    read_atlases,
    read_propagated,
)
from atlasmith.fusion.training import train_network
from atlasmith.io.tables import Subject, read_label_values, write_tsv
from atlasmith.io.weights import write_weights
from atlasmith.networks import CrossFitted, held_out_folds
from atlasmith.training.device import seeded_generator, select_device, to_device

# SD of a feature at least: one that is constant where two atlases vote on a third varies where three vote.
MIN_DEVIATION = 0.1
WEIGHT_DECAY = 60.0  # over atlases and labels: the fewer boundaries in training, the stronger
BATCH_VOXELS = 4096  # a step
VALIDATE_EVERY = 20
NO_CANDIDATE = -1  # in place of the true label's position, where it isn't among the candidates


@dataclass(frozen=True, eq=False)
class _Voxels:
    """Training voxels of all atlases.

    features: (M, K, FEATURES). labels: (M, K), the candidates' positions among all labels. truth: (M,), the
    column of the true label. owner: (M,), the position of the atlas that a voxel is of, on the host, which
    decides what is drawn.
    """

    features: Tensor
    labels: Tensor
    truth: Tensor
    owner: Tensor


def train_autocontext(config: Config) -> None:
    """Train on voxels of the atlases where the other atlases disagree; write weights and training tables.

    Validation is on the atlases that a classifier is trained without. A killed run resumes from its
    checkpoints to the same weights.

    Args:
        config: The run's config; its `fusion.autocontext` section decides.
    """
    layout = config.layout
    settings: AutoContextSettings = config.fusion.section(SECTION)
    atlases = read_atlases(layout)
    device = select_device(config.device)
    torch.manual_seed(config.seed)
    network = AutoContext(
        [0, *read_label_values(layout.labels)],
        settings.width,
        held_out_folds([atlas.id for atlas in atlases], settings.count),
        len(layout.channels),
    ).to(device)
    voxels = _read_voxels(config, network, atlases)
    features = voxels.features
    if len(features):
        _fit(config, FIRST_PASS, network.first, atlases, lambda k, rows: features[rows], voxels)
        context = _read_context(config, network, atlases)
        _fit(
            config,
            SECOND_PASS,
            network.second,
            atlases,
            lambda k, rows: torch.cat([context[k, rows], features[rows]], dim=-1),
            voxels,
        )
    else:
        print("autocontext: no two atlases disagree on a third: nothing to train on", flush=True)
        for table in (FIRST_PASS, SECOND_PASS):
            write_tsv(layout.fuser_training(table), [], ["step", "loss"])
    write_weights(layout.fuser_weights(SECTION), network, network.settings)
    for table in (SECOND_PASS, FIRST_PASS):  # a checkpoint of the second pass needs that of the first
        layout.fuser_checkpoint(table).unlink(missing_ok=True)


def _read_voxels(config: Config, network: AutoContext, atlases: Sequence[Subject]) -> _Voxels:
    """Draw training voxels of all atlases, with their features and manual labels."""
    parts = []
    for index, atlas in enumerate(track(atlases, "autocontext: voxels")):
        propagated = read_propagated(config.layout, atlas, network.values.device)
        candidates = find_candidates(propagated)
        drawn = _draw(config, index, propagated, candidates, len(atlases))
        manual = manual_labels(atlas, propagated.grid, drawn.device).flatten()[candidates.voxels[drawn]]
        right = candidates.labels[drawn] == manual[:, None]
        truth = torch.where(right.any(dim=1), right.int().argmax(dim=1), NO_CANDIDATE)
        labels = label_positions(candidates.labels[drawn], network.values)
        features = candidate_features(propagated, candidates)[drawn]
        parts.append([features, labels, truth, torch.full((len(drawn),), index)])
    return _Voxels(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


def _draw(
    config: Config, index: int, propagated: PropagatedAtlases, candidates: Candidates, atlases: int
) -> Tensor:
    """Draw which of the ambiguous voxels of an atlas are trained on, of those that aren't excluded."""
    device = candidates.voxels.device
    rows = torch.arange(len(candidates.voxels), device=device)
    if propagated.comparable is not None:
        rows = rows[propagated.comparable.flatten()[candidates.voxels]]
    order = torch.randperm(len(rows), generator=seeded_generator(config.seed, 30, index))
    most = -(-config.fusion.section(SECTION).voxels // atlases)
    return rows[order[:most].sort().values.to(device)]


@torch.inference_mode()
def _read_context(config: Config, network: AutoContext, atlases: Sequence[Subject]) -> Tensor:
    """The context features (classifiers, M, K, context features) of the training voxels.

    Each classifier's are from its own first pass, since the others were trained on the atlases that it is
    trained without.
    """
    parts = []
    for index, atlas in enumerate(track(atlases, "autocontext: first pass")):
        propagated = read_propagated(config.layout, atlas, network.values.device)
        candidates = find_candidates(propagated)
        drawn = _draw(config, index, propagated, candidates, len(atlases))
        features = candidate_features(propagated, candidates)
        labels = label_positions(candidates.labels, network.values)
        context = (
            first_pass_context(first, propagated, candidates, features, labels)[drawn]
            for first in network.first.each
        )
        parts.append(torch.stack(list(context)))
    return torch.cat(parts, dim=1)


def _fit(
    config: Config,
    table: str,
    classifiers: CrossFitted[CandidateClassifier],
    atlases: Sequence[Subject],
    features: Callable[[int, Tensor], Tensor],
    voxels: _Voxels,
) -> None:
    """Train the classifiers of one pass, whose inputs are `features`(k, rows) (V, K, features)."""
    truth, owner = voxels.truth, voxels.owner
    trained_on = torch.tensor([[a.participant not in ids for ids in classifiers.without] for a in atlases])
    for k, classifier in enumerate(classifiers.each):
        rows = to_device(torch.nonzero(trained_on[owner, k])[:, 0], truth.device)
        present = features(k, rows)[voxels.labels[rows] >= 0]
        if len(present) > 1:  # atlases may disagree on those alone that this classifier is trained without
            classifier.mean.copy_(present.mean(0))
            classifier.deviation.copy_(present.std(0).clamp(min=MIN_DEVIATION))

    def losses(rows: Tensor, chosen: Tensor) -> Tensor:
        """The sum of the losses of each classifier on the rows that are chosen for it (rows, classifiers)."""
        sums = []
        for k, classifier in enumerate(classifiers.each):
            own = to_device(rows[chosen[:, k]], truth.device)
            logits = classifier(features(k, own), voxels.labels[own])
            sums.append(F.cross_entropy(logits, truth[own], ignore_index=NO_CANDIDATE, reduction="sum"))
        return torch.stack(sums).sum()

    def step(index: int) -> dict[str, Tensor]:
        rows = torch.randint(len(truth), (BATCH_VOXELS,), generator=seeded_generator(config.seed, 31, index))
        chosen = trained_on[owner[rows]]
        terms = {"loss": losses(rows, chosen) / max(int(chosen.sum()), 1)}
        if (index + 1) % VALIDATE_EVERY == 0 and not chosen.all():
            with torch.no_grad():
                terms["validation"] = losses(rows, ~chosen) / int((~chosen).sum())
        return terms

    labels = classifiers.each[0].embedding.num_embeddings - 1
    train_network(config, SECTION, table, classifiers, step, WEIGHT_DECAY / (len(atlases) * labels))
