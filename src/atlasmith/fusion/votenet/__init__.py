"""VoteNet: atlases weighted by the predicted reliability of their labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from atlasmith.fusion.fuser import Fuser, FusionInputs, Training, lazy
from atlasmith.fusion.votenet.settings import SECTION, VoteNetSettings
from atlasmith.fusion.voting import weighted

if TYPE_CHECKING:
    from torch import Tensor

soft_weights = lazy("atlasmith.fusion.votenet.weights:soft_weights")
hard_weights = lazy("atlasmith.fusion.votenet.weights:hard_weights")
independent_error_weights = lazy("atlasmith.fusion.votenet.weights:independent_error_weights")
correlated_error_weights = lazy("atlasmith.fusion.votenet.weights:correlated_error_weights")

TRAINING = Training(
    train=lazy("atlasmith.fusion.votenet.training:train_votenet"),
    predictor=lazy("atlasmith.fusion.votenet.prediction:read_predictor"),
    tables={SECTION: "VoteNet"},
)


def _reliability(inputs: FusionInputs, without_vote: float) -> Tensor:
    """The predicted reliability (N, *shape), with another value where an atlas has no vote."""
    reliability: Tensor = inputs.prediction().reliability
    return reliability if inputs.votes is None else reliability.where(inputs.votes, without_vote)


def _fuser(weights: Callable[[FusionInputs], Tensor], text: str) -> Fuser:
    return Fuser(weighted(weights), text, SECTION, VoteNetSettings, TRAINING)


VOTENET = _fuser(
    lambda inputs: soft_weights(_reliability(inputs, 0.0), inputs.settings.sharpness),
    "VoteNet, soft votes (after Ding et al. 2019, doi:10.1007/978-3-030-32248-9_23): atlases are weighted by "
    "a power of the probability, from a network, that their label is right at a voxel.",
)
VOTENET_HARD = _fuser(
    lambda inputs: hard_weights(_reliability(inputs, 0.0), inputs.settings.sharpness),
    "VoteNet (Ding et al. 2019, doi:10.1007/978-3-030-32248-9_23): majority voting of the atlases whose "
    "label is right at a voxel with a probability of one half or more.",
)
VOTENET_PLUS = _fuser(
    lambda inputs: independent_error_weights(_reliability(inputs, 1.0)),
    "VoteNet+ (after Ding, Han and Niethammer 2020, ISBI): joint label fusion with error probabilities from "
    "a network in place of intensity differences.",
)
VOTENET_JOINT = _fuser(
    lambda inputs: correlated_error_weights(
        inputs.labels, _reliability(inputs, 1.0), inputs.prediction().correlation
    ),
    "VoteNet+ with the correlation of the atlases' errors that was found in training.",
)
