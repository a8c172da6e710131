"""Settings of VoteNet."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from atlasmith.config.schema import Count, Positive, Section

SECTION = "votenet"


class VoteNetSettings(Section):
    """Settings of VoteNet, shared by all methods that weight atlases by its reliability."""

    channels: list[Count] = Field([12, 24, 48], min_length=2, description="widths of the levels")
    steps: Count = 600
    batch_size: Count = 4
    patch: Annotated[int, Field(ge=8)] = Field(32, description="side of a training patch, voxels")
    learning_rate: Positive = 3e-3
    sharpness: Positive = Field(4.0, description="weights of `votenet` are the reliability to this power")
    boundary: bool = Field(False, description="the distance to the label's boundary is an input")
    scales: Literal[1, 2] = Field(1, description="2: smoothed images are inputs, too")
    calibration: Literal["platt", "temperature", "local_temperature"] = Field(
        "platt", description="how the network's outputs are calibrated on held-out atlases"
    )
    checkpoint_every: Count = 100
