"""Auto-context fusion: the candidate labels of each voxel, classified by a network in two passes."""

from __future__ import annotations

from atlasmith.fusion.autocontext.settings import FIRST_PASS, SECOND_PASS, SECTION, AutoContextSettings
from atlasmith.fusion.fuser import Fuser, Training, lazy

AUTOCONTEXT = Fuser(
    function=lambda inputs: inputs.prediction(),
    text="Auto-context fusion: at each voxel where atlases disagree, a network classifies the labels that "
    "have votes, from votes, intensities and, in a second pass, the first pass's probabilities (after Tu and "
    "Bai 2010, doi:10.1109/TPAMI.2009.186; Wang and Yushkevich 2013, doi:10.3389/fninf.2013.00027).",
    section=SECTION,
    settings_type=AutoContextSettings,
    training=Training(
        train=lazy("atlasmith.fusion.autocontext.training:train_autocontext"),
        predictor=lazy("atlasmith.fusion.autocontext.model:read_predictor"),
        tables={FIRST_PASS: "Auto-context, first pass", SECOND_PASS: "Auto-context, second pass"},
    ),
)
