"""Voting weighted by local intensity similarity."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atlasmith.fusion.fuser import Fuser, FusionInputs, lazy
from atlasmith.fusion.voting import weighted

if TYPE_CHECKING:
    from torch import Tensor

patch_distances = lazy("atlasmith.fusion.patches:patch_distances")
similarity_weights = lazy("atlasmith.fusion.patches:similarity_weights")


def local_weights(inputs: FusionInputs) -> Tensor:
    """Return weights (N, *shape) from the intensity differences over the patch at each voxel.

    exp(-d / h), with d the mean squared difference over the patch and h that of the most similar atlas, as in
    patch-based segmentation (Coupe et al. 2011, doi:10.1016/j.neuroimage.2010.09.018).
    """
    weights: Tensor = similarity_weights(patch_distances(inputs))
    return weights


LOCAL_WEIGHTED = Fuser(
    function=weighted(local_weights),
    text="Local weighted voting: at each voxel atlases are weighted by the similarity of their intensities "
    "to the target's over a patch.",
)
