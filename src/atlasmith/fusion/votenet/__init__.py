"""VoteNet: atlases weighted by the predicted reliability of their labels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from atlasmith.config.schema import Config
from atlasmith.core.grid import Array
from atlasmith.fusion.fuser import Fuser, FusionInputs, Predictor, Training, weighted
from atlasmith.fusion.votenet.settings import SECTION, VoteNetSettings


def _train(config: Config) -> None:
    from atlasmith.fusion.votenet.training import train_votenet

    train_votenet(config)


def _predictor(path: Path, device: str) -> Predictor:
    from atlasmith.fusion.votenet.predictor import ReliabilityPredictor

    return ReliabilityPredictor(path, device)


def _soft(inputs: FusionInputs) -> Array:
    from atlasmith.fusion.votenet.weights import soft_weights

    return soft_weights(inputs.prediction().reliability, inputs.settings.sharpness)


def _hard(inputs: FusionInputs) -> Array:
    from atlasmith.fusion.votenet.weights import hard_weights

    return hard_weights(inputs.prediction().reliability, inputs.settings.sharpness)


def _plus(inputs: FusionInputs) -> Array:
    from atlasmith.fusion.votenet.weights import independent_error_weights

    return independent_error_weights(inputs.prediction().reliability)


def _joint(inputs: FusionInputs) -> Array:
    from atlasmith.fusion.votenet.weights import correlated_error_weights

    return correlated_error_weights(
        inputs.labels, inputs.prediction().reliability, inputs.prediction().correlation
    )


def _fuser(weights: Callable[[FusionInputs], Array], text: str) -> Fuser:
    return Fuser(
        function=weighted(weights),
        text=text,
        section=SECTION,
        settings_type=VoteNetSettings,
        training=TRAINING,
    )


TRAINING = Training(train=_train, predictor=_predictor, tables={SECTION: "VoteNet"})
VOTENET = _fuser(
    _soft,
    "VoteNet, soft votes (after Ding et al. 2019, doi:10.1007/978-3-030-32248-9_23): atlases are weighted by "
    "a power of the probability, from a network, that their label is right at a voxel.",
)
VOTENET_HARD = _fuser(
    _hard,
    "VoteNet (Ding et al. 2019, doi:10.1007/978-3-030-32248-9_23): majority voting of the atlases whose "
    "label is right at a voxel with a probability of one half or more.",
)
VOTENET_PLUS = _fuser(
    _plus,
    "VoteNet+ (after Ding, Han and Niethammer 2020, ISBI): joint label fusion with error probabilities from "
    "a network in place of intensity differences.",
)
VOTENET_JOINT = _fuser(
    _joint,
    "VoteNet+ with the correlation of the atlases' errors that was found in training.",
)
