"""Weighted voting, as a fusion method is declared."""

from __future__ import annotations

from collections.abc import Callable

from atlasmith.core.grid import Array
from atlasmith.fusion.fuser import FusionInputs, LabelProbabilities, lazy


def weighted(weights: Callable[[FusionInputs], Array]) -> Callable[[FusionInputs], LabelProbabilities]:
    """Make weights (N, *shape) of each atlas at each voxel a fusion method's function."""
    weighted_probabilities = lazy("atlasmith.fusion.probabilities:weighted_probabilities")
    return lambda inputs: weighted_probabilities(inputs.labels, weights(inputs))
