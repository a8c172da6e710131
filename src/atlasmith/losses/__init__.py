"""Losses, by name: similarities of two images or label maps, regularizers of a deformation, and the objective
that weighs them. `similarity` and `regularizers` say what each takes; the docs list them all.
"""

from atlasmith.losses.objective import (
    DIRECTIONS,
    TRAINING_TERMS,
    Objective,
    needs_displacements,
    pairwise_terms,
    registration_objective,
    similarities,
    to_mm,
)
from atlasmith.losses.regularizers import REGULARISERS
from atlasmith.losses.similarity import SIMILARITY

__all__ = [
    "DIRECTIONS",
    "REGULARISERS",
    "SIMILARITY",
    "TRAINING_TERMS",
    "Objective",
    "needs_displacements",
    "pairwise_terms",
    "registration_objective",
    "similarities",
    "to_mm",
]
