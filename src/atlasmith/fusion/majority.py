"""Majority voting."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atlasmith.fusion.fuser import Fuser, FusionInputs
from atlasmith.fusion.voting import weighted

if TYPE_CHECKING:
    from torch import Tensor


def equal_weights(inputs: FusionInputs) -> Tensor:
    """Return the weight 1 of each atlas at each voxel (N, *shape)."""
    return inputs.images.new_ones(()).expand(inputs.labels.shape)


MAJORITY = Fuser(
    function=weighted(equal_weights),
    text="Majority voting: every atlas has the same weight.",
    needs_images=False,
)
