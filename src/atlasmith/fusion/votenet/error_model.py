"""The calibration of a trained VoteNet, and the correlation of the atlases' errors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from atlasmith.fusion.aligned import disagreement
from atlasmith.fusion.library import Library, draw_patch, on_device
from atlasmith.fusion.votenet.calibration import fit_calibration
from atlasmith.fusion.votenet.network import VoteNet, agreement, input_channels
from atlasmith.training.device import to_device

PATCHES = 64
MAX_SAMPLES = 3_000  # of a patch, for calibration
PRIOR_ATLASES = 3  # an atlas's correlations are shrunk to the mean with the weight of so many atlases


def calibrate_network(
    network: VoteNet, library: Library, targets: Sequence[int], side: int, random: torch.Generator
) -> None:
    """Fit the network's calibration, in place, to atlases that it wasn't trained on.

    Args:
        network: The trained network.
        library: The atlases.
        targets: Positions of the held-out atlases.
        side: Of the patches, voxels.
        random: The random generator.
    """
    parts = []
    for _, known, *samples in _predictions(network, library, targets, side, random):
        logits, inputs, right = (part[known] for part in samples)
        some = torch.randperm(len(logits), generator=random)[:MAX_SAMPLES]
        parts.append((logits[some], inputs[some], right[some]))
    fit_calibration(network.calibration, *(torch.cat(part) for part in zip(*parts, strict=True)))


def estimate_correlation(network: VoteNet, library: Library, side: int, random: torch.Generator) -> None:
    """Estimate, in place, the correlation of atlases' errors, beyond what the probabilities explain.

    Args:
        network: The trained network.
        library: The atlases, each a target of all others.
        side: Of the patches, voxels.
        random: The random generator.
    """
    place = {atlas: index for index, atlas in enumerate(network.settings["atlases"])}
    products, count = (torch.zeros_like(network.correlation) for _ in range(2))
    for atlases, known, logits, inputs, right in _predictions(
        network, library, range(len(place)), side, random
    ):
        reliability = network.calibration(logits, inputs).sigmoid().clamp(0.01, 0.99)
        residual = known * (right - reliability) / (reliability * (1 - reliability)).sqrt()
        rows = torch.tensor([place[name] for name in atlases])
        products[rows[:, None], rows] += residual @ residual.T
        count[rows[:, None], rows] += known.float() @ known.float().T
    network.correlation.copy_(shrink_correlation(products, count))


def shrink_correlation(products: Tensor, count: Tensor) -> Tensor:
    """Estimate correlations, shrunk to the mean of all pairs where samples are few.

    Args:
        products: (A, A), sums of products of two atlases' standardized errors.
        count: (A, A), the number of samples in each sum.

    Returns:
        (A, A), in [-1, 1], with 1 on the diagonal.
    """
    scale = (products.diagonal() / count.diagonal().clamp(min=1)).clamp(min=1e-6).sqrt()
    products = products / torch.outer(scale, scale)
    pairs = ~torch.eye(len(count), dtype=torch.bool, device=count.device)
    mean = products[pairs].sum() / count[pairs].sum().clamp(min=1)
    prior = PRIOR_ATLASES * count[pairs].sum() / pairs.sum().clamp(min=1) / max(len(count), 1)
    correlation = ((products + prior * mean) / (count + prior).clamp(min=1)).clamp(-1, 1)
    return torch.where(pairs, correlation, torch.ones_like(correlation))


def _predictions(
    network: VoteNet, library: Library, targets: Sequence[int], side: int, random: torch.Generator
) -> Iterator[tuple[Sequence[str], Tensor, Tensor, Tensor, Tensor]]:
    """Yield predictions at ambiguous voxels of `PATCHES` patches of the targets in turn, at least one each.

    These are the ids of the N atlases, where both target and atlas may be learned from (N, M), logits (N, M),
    the network's inputs (N, M, channels), and whether each label is right (N, M).
    """
    device = network.correlation.device
    for index in sorted(range(max(PATCHES, len(targets))), key=lambda index: index % len(targets)):
        atlases, truth, ambiguous = library[targets[index % len(targets)]]
        patch = draw_patch(truth.shape, ambiguous, side, random)
        here = on_device(atlases.part(patch), device)
        labels, images, target = here.labels, here.images, here.target
        known = torch.ones_like(labels, dtype=torch.bool) if here.both_valid is None else here.both_valid
        agreeing = agreement(labels, votes=here.votes)
        inputs = input_channels(target, images, labels, agreeing, **network.input_options)
        right = (labels == to_device(truth[patch], device)).float()
        where = disagreement(labels)
        with torch.no_grad():
            logits = network(inputs, labels)
        yield atlases.ids, known[:, where], logits[:, where], inputs.movedim(1, -1)[:, where], right[:, where]
