"""Losses, by name: similarities of two images or label maps, regularisers of a deformation, and the objective
that weighs them. `similarity` and `regularisers` say what each takes; the docs list them all.
"""

from atlasmith.losses.objective import (
    BOTH,
    TRAINING_TERMS,
    Pairing,
    across,
    need_maps,
    pair,
    similarities,
    to_mm,
)
from atlasmith.losses.regularizers import REGULARISERS
from atlasmith.losses.similarity import SIMILARITY

__all__ = [
    "BOTH",
    "REGULARISERS",
    "SIMILARITY",
    "TRAINING_TERMS",
    "Pairing",
    "across",
    "need_maps",
    "pair",
    "similarities",
    "to_mm",
]
