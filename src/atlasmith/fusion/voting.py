"""Weighted voting, as a fusion method is declared."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from atlasmith.core.grid import Array
from atlasmith.fusion.fuser import FusionInputs, LabelProbabilities, lazy


def weighted(weights: Callable[[FusionInputs], Array]) -> Callable[[FusionInputs], LabelProbabilities]:
    """Make weights (N, *shape) of each atlas at each voxel a fusion method's function.

    Atlases without a vote get no weight, and all others the same where intensities say nothing, or no other
    weight remains.
    """
    weighted_probabilities = lazy("atlasmith.fusion.probabilities:weighted_probabilities")
    return lambda inputs: weighted_probabilities(inputs.labels, _of_votes(inputs, weights(inputs)))


def _of_votes(inputs: FusionInputs, weights: Array) -> Array:
    """The weights (N, *shape), where regions were excluded."""
    if inputs.comparable is not None:
        weights = np.where(inputs.comparable, weights, 1)
    if inputs.votes is not None:
        weights = np.where(inputs.votes, weights, 0)
        weights = np.where(weights.any(axis=0), weights, inputs.votes)
    return weights
