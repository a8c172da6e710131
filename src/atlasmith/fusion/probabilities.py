"""Label probabilities: from weighted votes, with a prior, and the most probable label.

Labels are processed one at a time, each within its bounding box, so that memory doesn't grow with their
number.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from atlasmith.core.boxes import bounding_boxes
from atlasmith.core.chunks import at_once
from atlasmith.core.world import CPU
from atlasmith.fusion.aligned import AlignedAtlases
from atlasmith.fusion.fuser import Fuser, FusionInputs, LabelProbabilities, LabelProbability

TINY = torch.finfo(torch.float32).tiny


def weighted_probabilities(labels: Tensor, weights: Tensor) -> LabelProbabilities:
    """Compute each label's share of the weights at each voxel.

    Args:
        labels: (N, *shape) integers, one map an atlas.
        weights: (N, *shape), not negative.

    Yields:
        Each label, in rising order, its bounding box, and its probability there.
    """
    total = weights.sum(dim=0).clamp(min=TINY)
    for value, box in bounding_boxes(labels):
        inside = labels[:, *box], weights[:, *box]
        size = max(1, at_once(labels.device) * inside[0].shape[1] // inside[0].numel())
        slabs = zip(*(maps.split(size, dim=1) for maps in inside), strict=True)
        votes = [torch.where(own == value, weight, 0).sum(dim=0) for own, weight in slabs]
        yield value, box, torch.cat(votes).div_(total[box])


def label_probabilities(
    fuser: Fuser, inputs: FusionInputs, prior: float = 0.0, prior_fallback: float = 0.0
) -> LabelProbabilities:
    """Compute a fusion method's label probabilities, combined with a prior.

    All atlases are propagated through the template, so that the share of the atlases with a label is the
    template's label probability in the target's space (of an atlas, without its own labels).

    Args:
        fuser: The fusion method.
        inputs: What it computes from.
        prior: Each label's probability is multiplied by this power of its prior, and normalized; 0: no prior.
        prior_fallback: Where no label has this probability, as where no atlas is reliable, the prior alone
            decides; 0: nowhere.

    Returns:
        Each label, in rising order, a box of the grid, and its probability there.
    """
    probabilities = fuser(inputs)
    if not (prior or prior_fallback):
        return probabilities
    return _with_prior(probabilities, inputs, prior, prior_fallback)


def _with_prior(
    probabilities: LabelProbabilities, atlases: AlignedAtlases, power: float, fallback: float
) -> LabelProbabilities:
    total, best = torch.zeros_like(atlases.target[0]), torch.zeros_like(atlases.target[0])
    products = []
    for value, box, probability in probabilities:
        product = probability * atlases.share(value, box) ** power
        total[box] += product
        products.append((value, box, product))
    known = total > 0
    total = total.where(known, 1)
    for _, box, product in products:
        best[box].clamp_(min=product / total[box])
    certain = known & (best >= fallback)
    for value, box, product in products:
        yield value, box, torch.where(certain[box], product / total[box], atlases.share(value, box))


def most_probable_labels(
    probabilities: Iterable[LabelProbability], shape: Sequence[int], device: torch.device = CPU
) -> tuple[Tensor, Tensor]:
    """Decide on the most probable label at each voxel.

    Args:
        probabilities: Of all labels, in rising order.
        shape: The grid's.
        device: Where the probabilities lie.

    Returns:
        Labels (*shape) int32, where ties go to the smallest label, and their probabilities (*shape) float32.
    """
    labels = torch.zeros(*shape, dtype=torch.int32, device=device)
    best = torch.full_like(labels, -1, dtype=torch.float32)
    for value, box, probability in probabilities:
        labels[box].masked_fill_(probability > best[box], value)
        best[box].clamp_(min=probability)
    return labels, best
