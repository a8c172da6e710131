"""Majority voting."""

from __future__ import annotations

import numpy as np

from atlasmith.core.grid import Array
from atlasmith.fusion.fuser import Fuser, FusionInputs
from atlasmith.fusion.voting import weighted


def equal_weights(inputs: FusionInputs) -> Array:
    """Return the weight 1 of each atlas at each voxel (N, *shape)."""
    return np.ones(inputs.labels.shape, dtype=np.float32)


MAJORITY = Fuser(
    function=weighted(equal_weights),
    text="Majority voting: every atlas has the same weight.",
    needs_images=False,
)
