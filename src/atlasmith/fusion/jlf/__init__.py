"""Joint label fusion."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from atlasmith.config.schema import Positive, Section
from atlasmith.fusion.fuser import Fuser, FusionInputs, LabelProbabilities


class JLFSettings(Section):
    """Settings of joint label fusion."""

    patch: Annotated[int, Field(ge=1)] = Field(2, description="radius of the patches, voxels")
    search: Annotated[int, Field(ge=0)] = Field(
        3, description="radius of the search for the best patch, voxels"
    )
    alpha: Positive = Field(0.1, description="added to the diagonal of the atlases' joint errors")
    beta: Positive = Field(2.0, description="power of the errors")


def _joint_label_fusion(inputs: FusionInputs) -> LabelProbabilities:
    from atlasmith.fusion.jlf.joint_label_fusion import joint_label_fusion

    return joint_label_fusion(inputs.labels, inputs.images, inputs.target, **inputs.settings.model_dump())


JLF = Fuser(
    function=_joint_label_fusion,
    text="Joint label fusion (Wang et al. 2013, doi:10.1109/TPAMI.2012.143): patch-based weights that "
    "minimize the expected error of the vote, given that atlases have errors in common.",
    section="jlf",
    settings_type=JLFSettings,
)
