"""Joint label fusion."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from atlasmith.config.section import Positive, Section
from atlasmith.fusion.fuser import Fuser, lazy

joint_label_fusion = lazy("atlasmith.fusion.jlf.patch_votes:joint_label_fusion")


class JLFSettings(Section):
    """Settings of joint label fusion."""

    patch: Annotated[int, Field(ge=1)] = Field(2, description="radius of the patches, voxels")
    search: Annotated[int, Field(ge=0)] = Field(
        3, description="radius of the search for the best patch, voxels"
    )
    alpha: Positive = Field(0.1, description="added to the diagonal of the atlases' joint errors")
    beta: Positive = Field(2.0, description="power of the errors")


JLF = Fuser(
    function=lambda inputs: joint_label_fusion(inputs, **inputs.settings.model_dump()),
    text="Joint label fusion (Wang et al. 2013, doi:10.1109/TPAMI.2012.143): patch-based weights that "
    "minimize the expected error of the vote, given that atlases have errors in common.",
    section="jlf",
    settings_type=JLFSettings,
)
