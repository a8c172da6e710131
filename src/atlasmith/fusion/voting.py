"""Weighted voting, as a fusion method is declared."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from atlasmith.fusion.fuser import FusionInputs, LabelProbabilities, lazy

if TYPE_CHECKING:
    from torch import Tensor


def weighted(weights: Callable[[FusionInputs], Tensor]) -> Callable[[FusionInputs], LabelProbabilities]:
    """Make weights (N, *shape) of each atlas at each voxel a fusion method's function.

    Atlases without a vote get no weight, and all others the same where intensities say nothing, or no other
    weight remains.
    """
    weighted_probabilities = lazy("atlasmith.fusion.probabilities:weighted_probabilities")
    return lambda inputs: weighted_probabilities(inputs.labels, _of_votes(inputs, weights(inputs)))


def _of_votes(inputs: FusionInputs, weights: Tensor) -> Tensor:
    """The weights (N, *shape), where regions were excluded."""
    if inputs.comparable is not None:
        weights = weights.masked_fill(~inputs.comparable, 1)
    if inputs.votes is not None:
        weights.masked_fill_(~inputs.votes, 0)  # a copy, since not all is comparable either
        weights = weights.where(weights.any(dim=0), inputs.votes)
    return weights
