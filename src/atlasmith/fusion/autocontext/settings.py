"""Settings of auto-context fusion."""

from __future__ import annotations

from pydantic import Field

from atlasmith.config.schema import Count, Positive, Section

SECTION = "autocontext"
FIRST_PASS, SECOND_PASS = SECTION, "autocontext_second"  # names of the training tables


class AutoContextSettings(Section):
    """Settings of auto-context fusion."""

    count: Count = Field(3, description="classifiers, each trained without its share of the atlases")
    voxels: Count = Field(400_000, description="training voxels, of all atlases together")
    width: Count = Field(64, description="of the classifiers' layers")
    steps: Count = Field(1500, description="of training, in each of the two passes")
    learning_rate: Positive = 2e-3
    checkpoint_every: Count = 500
