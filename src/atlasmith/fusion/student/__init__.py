"""The student: a segmentation network that learns from the atlases, their warped images and their votes."""

from __future__ import annotations

from atlasmith.fusion.fuser import Fuser, Training, lazy
from atlasmith.fusion.student.settings import SECTION, StudentSettings

STUDENT = Fuser(
    function=lambda inputs: inputs.prediction(),
    text="Student: a U-Net that segments a target by its image and the votes of the propagated atlases, "
    "trained on the atlases and on the atlases as warped to each other (after Zhao et al. 2019, "
    "arXiv:1902.09383; Xie et al. 2023, doi:10.1016/j.media.2022.102683).",
    section=SECTION,
    settings_type=StudentSettings,
    training=Training(
        train=lazy("atlasmith.fusion.student.training:train_student"),
        predictor=lazy("atlasmith.fusion.student.model:read_predictor"),
        tables={SECTION: "Student"},
    ),
    needs_atlases=False,
)
