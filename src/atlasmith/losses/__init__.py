"""Losses, by name; lower is better.

A similarity takes two tensors (B, C, *shape) and a mask (B, 1, *shape) or None; a regulariser a field
(B, d, *shape) in mm and the voxel sizes in mm. Each returns a scalar.
"""

from atlasmith.losses.objective import COHORT_TERMS, REGULARISERS, SIMILARITY, Pairing, pair, to_mm, weighted

__all__ = ["COHORT_TERMS", "REGULARISERS", "SIMILARITY", "Pairing", "pair", "to_mm", "weighted"]
