"""Voting of the atlases that are most similar to the target, voxel by voxel."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from atlasmith.config.section import Count, Section
from atlasmith.core.grid import Array
from atlasmith.fusion.fuser import Fuser, FusionInputs, lazy
from atlasmith.fusion.voting import weighted

patch_distances = lazy("atlasmith.fusion.patches:patch_distances")


class LocalSelectionSettings(Section):
    """Settings of local atlas selection."""

    atlases: Count = Field(10, description="atlases selected at each voxel")


def selection_weights(inputs: FusionInputs) -> Array:
    """Return the weight 1 of the selected atlases at each voxel, 0 of the others (N, *shape).

    Selected are the atlases with the least intensity difference over the patch at the voxel: atlas selection
    (Aljabar et al. 2009, doi:10.1016/j.neuroimage.2009.02.018), voxel by voxel.
    """
    distances = patch_distances(inputs)
    last = min(inputs.settings.atlases, len(distances)) - 1
    selected: Array = (distances <= np.partition(distances, last, axis=0)[last]).astype(np.float32)
    return selected


LOCAL_SELECTION = Fuser(
    function=weighted(selection_weights),
    text="Local atlas selection: majority voting of the atlases that are most similar to the target over a "
    "patch, selected at each voxel.",
    section="local_selection",
    settings_type=LocalSelectionSettings,
)
