"""Auto-context fusion: the candidate labels of each voxel, classified by a network in two passes."""

from __future__ import annotations

from pathlib import Path

from atlasmith.config.schema import Config
from atlasmith.fusion.autocontext.settings import FIRST_PASS, SECOND_PASS, SECTION, AutoContextSettings
from atlasmith.fusion.fuser import Fuser, FusionInputs, LabelProbabilities, Predictor, Training


def _train(config: Config) -> None:
    from atlasmith.fusion.autocontext.training import train_autocontext

    train_autocontext(config)


def _predictor(path: Path, device: str) -> Predictor:
    from atlasmith.fusion.autocontext.model import read_autocontext

    return read_autocontext(path, device).probabilities


def _probabilities(inputs: FusionInputs) -> LabelProbabilities:
    probabilities: LabelProbabilities = inputs.prediction()
    return probabilities


AUTOCONTEXT = Fuser(
    function=_probabilities,
    text="Auto-context fusion: at each voxel where atlases disagree, a network classifies the labels with votes "
    "there, from votes, intensities and, in a second pass, the first pass's probabilities (after Tu and Bai "
    "2010, doi:10.1109/TPAMI.2009.186; Wang and Yushkevich 2013, doi:10.3389/fninf.2013.00027).",
    section=SECTION,
    settings_type=AutoContextSettings,
    training=Training(
        train=_train,
        predictor=_predictor,
        tables={FIRST_PASS: "Auto-context, first pass", SECOND_PASS: "Auto-context, second pass"},
    ),
)
