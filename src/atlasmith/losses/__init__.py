"""Losses, by name: similarities of two images or label maps, regularizers, and the objective of both."""

from atlasmith.losses.objective import (
    Objective,
    find_regularizers,
    pairwise_terms,
    registration_objective,
    required_inputs,
    similarities,
)
from atlasmith.losses.regularizers import REGULARIZERS, Regularizer
from atlasmith.losses.similarity import SIMILARITY, Similarity

__all__ = [
    "REGULARIZERS",
    "SIMILARITY",
    "Objective",
    "Regularizer",
    "Similarity",
    "find_regularizers",
    "pairwise_terms",
    "registration_objective",
    "required_inputs",
    "similarities",
]
