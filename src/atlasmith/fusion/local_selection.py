"""Voting of the atlases that are most similar to the target, voxel by voxel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from atlasmith.config.section import Count, Section
from atlasmith.fusion.fuser import Fuser, FusionInputs, lazy
from atlasmith.fusion.voting import weighted

if TYPE_CHECKING:
    from torch import Tensor

patch_distances = lazy("atlasmith.fusion.patches:patch_distances")


class LocalSelectionSettings(Section):
    """Settings of local atlas selection."""

    atlases: Count = Field(10, description="atlases selected at each voxel")


def selection_weights(inputs: FusionInputs) -> Tensor:
    """Return the weight 1 of the selected atlases at each voxel, 0 of the others (N, *shape).

    Selected are the atlases with the least intensity difference over the patch at the voxel: atlas selection
    (Aljabar et al. 2009, doi:10.1016/j.neuroimage.2009.02.018), voxel by voxel.
    """
    distances = patch_distances(inputs)
    selected: Tensor = (distances <= _nth_smallest(distances, inputs.settings.atlases)).float()
    return selected


def _nth_smallest(maps: Tensor, n: int) -> Tensor:
    """The n-th smallest (*shape) of the values of maps (N, *shape), or the largest of fewer."""
    smallest: list[Tensor] = []
    for value in maps:
        # One map at a time is inserted: faster than to sort or to select a few values at each voxel.
        for rank, other in enumerate(smallest):
            smallest[rank], value = other.minimum(value), other.maximum(value)
        smallest = [*smallest, value][:n]
    return smallest[-1]


LOCAL_SELECTION = Fuser(
    function=weighted(selection_weights),
    text="Local atlas selection: majority voting of the atlases that are most similar to the target over a "
    "patch, selected at each voxel.",
    section="local_selection",
    settings_type=LocalSelectionSettings,
)
