"""Settings of the student."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from pydantic import Field

from atlasmith.config.section import Count, Positive, Section
from atlasmith.core.ranks import choose_evenly

SECTION = "student"
MOST_UNLABELLED = 200  # scans from which the student learns


class StudentSettings(Section):
    """Settings of the segmentation network that is trained on the atlases and their warped images."""

    channels: list[Count] = Field(
        [32, 64, 128], min_length=2, description="feature channels of each level, from half the resolution"
    )
    count: Count = Field(
        3, description="folds of cross-fitting: each network segments the atlases it was not trained on"
    )
    steps: Count = Field(12000, description="training steps")
    batch_size: Count = Field(2, description="images per training step")
    patch: Annotated[int, Field(ge=16)] = Field(64, description="side of a training patch, voxels")
    warped: Annotated[float, Field(ge=0, le=1)] = Field(
        0.5, description="share of the training images that are atlases warped to other atlases"
    )
    pseudo_labels: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.5,
        description="share of the training images that are scans without manual labels, with those that the "
        "last of the methods `majority` to `autocontext` finds; with `fusion.train_subjects`",
    )
    without_votes: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.5, description="share of the training images of which the network doesn't get the votes"
    )
    learning_rate: Positive = Field(3e-3, description="learning rate of AdamW")
    checkpoint_every: Count = Field(100, description="steps between checkpoints of the training")


def choose_unlabelled(scans: Iterable[str]) -> list[str]:
    """Choose from which scans without manual labels the student learns: evenly by id, since ids follow sites.

    Args:
        scans: Ids, in any order.
    """
    return choose_evenly(sorted(scans), MOST_UNLABELLED)
