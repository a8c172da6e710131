"""Settings of VoteNet."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from atlasmith.config.section import Count, Positive, Section

SECTION = "votenet"


class VoteNetSettings(Section):
    """Settings of VoteNet, shared by all methods that weight atlases by its reliability."""

    channels: list[Count] = Field(
        [12, 24, 48], min_length=2, description="feature channels of each level, finest first"
    )
    steps: Count = Field(600, description="training steps")
    batch_size: Count = Field(4, description="pairs of target and atlas per training step")
    patch: Annotated[int, Field(ge=8)] = Field(32, description="side of a training patch, voxels")
    learning_rate: Positive = Field(3e-3, description="learning rate of AdamW")
    sharpness: Positive = Field(4.0, description="weights of `votenet` are the reliability to this power")
    boundary: bool = Field(False, description="add the distance to the label's boundary to the inputs")
    scales: Literal[1, 2] = Field(1, description="2: add smoothed images to the inputs")
    calibration: Literal["platt", "temperature", "local_temperature"] = Field(
        "platt",
        description="calibration of the reliability on held-out atlases: `platt`, `temperature` or "
        "`local_temperature`",
    )
    checkpoint_every: Count = Field(100, description="steps between checkpoints of the training")
