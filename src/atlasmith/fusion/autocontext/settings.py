"""Settings of auto-context fusion."""

from __future__ import annotations

from pydantic import Field

from atlasmith.config.section import Count, Positive, Section

SECTION = "autocontext"
FIRST_PASS, SECOND_PASS = SECTION, "autocontext_second"  # names of the training tables


class AutoContextSettings(Section):
    """Settings of auto-context fusion."""

    count: Count = Field(
        3,
        description="folds of cross-fitting: each classifier is applied to the atlases it was not trained on",
    )
    voxels: Count = Field(
        400_000, description="training voxels where atlases disagree, of all targets together"
    )
    width: Count = Field(64, description="feature channels of the classifiers' layers")
    steps: Count = Field(1500, description="training steps of each of the two passes")
    learning_rate: Positive = Field(2e-3, description="learning rate of AdamW")
    checkpoint_every: Count = Field(500, description="steps between checkpoints of the training")
