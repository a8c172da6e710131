"""Label probabilities: from weighted votes, with a prior, and the most probable label.

Labels are processed one at a time, each within its bounding box, so that memory doesn't grow with their
number.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from scipy.ndimage import find_objects

from atlasmith.core.grid import Array
from atlasmith.core.labels import bounding_boxes
from atlasmith.fusion.aligned import AlignedAtlases, Box
from atlasmith.fusion.fuser import Fuser, FusionInputs, LabelProbabilities, LabelProbability


def weighted_probabilities(labels: Array, weights: Array) -> LabelProbabilities:
    """Compute each label's share of the weights at each voxel.

    Args:
        labels: (N, *shape) integers, one map an atlas.
        weights: (N, *shape), not negative.

    Yields:
        Each label, in rising order, its bounding box, and its probability there.
    """
    total = np.maximum(weights.sum(axis=0), np.finfo(np.float32).tiny)
    for value, where in bounding_boxes(labels):
        box = where[1:]
        yield value, box, np.where(labels[where] == value, weights[where], 0).sum(axis=0) / total[box]


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
    shape = atlases.labels.shape[1:]

    def prior(value: int, box: Box) -> Array:
        return atlases.share(value, box).astype(np.float32)

    total, best = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    products = []
    for value, outer, probability in probabilities:
        if not (inner := find_objects((probability > 0).view(np.int8))):
            continue
        box = tuple(slice(o.start + i.start, o.start + i.stop) for o, i in zip(outer, inner[0], strict=True))
        product = probability[inner[0]] * prior(value, box) ** power
        total[box] += product
        products.append((value, box, product))
    known = total > 0
    total[~known] = 1
    for _, box, product in products:
        best[box] = np.maximum(best[box], product / total[box])
    certain = known & (best >= fallback)
    for value, box, product in products:
        yield value, box, np.where(certain[box], product / total[box], prior(value, box))


def most_probable_labels(
    probabilities: Iterable[LabelProbability], shape: Sequence[int]
) -> tuple[Array, Array]:
    """Decide on the most probable label at each voxel.

    Args:
        probabilities: Of all labels, in rising order.
        shape: The grid's.

    Returns:
        Labels (*shape) int32, where ties go to the smallest label, and their probabilities (*shape) float32.
    """
    labels = np.zeros(shape, dtype=np.int32)
    best = np.full(shape, -1, dtype=np.float32)
    for value, box, probability in probabilities:
        better = probability > best[box]
        labels[box][better] = value
        best[box][better] = probability[better]
    return labels, best
