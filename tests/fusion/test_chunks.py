"""Results don't depend on how much is computed at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fusion_data import random_atlases, untrained
from torch import Tensor

from atlasmith.core.chunks import at_once
from atlasmith.fusion.autocontext import candidates
from atlasmith.fusion.fuser import FusionInputs
from atlasmith.fusion.jlf import patch_votes
from atlasmith.fusion.propagated import PropagatedAtlases
from atlasmith.fusion.table import FUSERS
from atlasmith.fusion.votenet.weights import correlated_error_weights

UNTRAINED = [name for name, fuser in FUSERS.items() if not fuser.is_trained]


def probabilities(method: str, atlases: PropagatedAtlases) -> list[Tensor]:
    if method == "autocontext":
        torch.manual_seed(0)
        return [probability for _, _, probability in untrained(atlases)]
    if method == "correlated errors":
        reliability = torch.rand(atlases.labels.shape, generator=torch.Generator().manual_seed(0))
        return [correlated_error_weights(atlases.labels, reliability, torch.eye(len(reliability)))]
    fuser = FUSERS[method]
    return [found for _, _, found in fuser(FusionInputs.of(atlases, fuser.settings_type()))]


@pytest.mark.parametrize("labels", [3, 20])  # STAPLE treats few and many differently
@pytest.mark.parametrize("method", [*UNTRAINED, "autocontext", "correlated errors"])
def test_probabilities_do_not_depend_on_chunks(
    method: str, labels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    atlases = random_atlases(np.random.default_rng(0), (9, 10, 8), list(range(labels)))
    whole = probabilities(method, atlases)
    monkeypatch.setattr(at_once, "__defaults__", (300, 300))
    monkeypatch.setattr(candidates, "CPU_VALUES", 70)
    monkeypatch.setattr(patch_votes, "SEARCHED_VALUES", 2 * 20**3)  # of one atlas or two
    # By rounding, joint label fusion may take another of two patches with almost the same correlation.
    atol = 1e-3 if method == "jlf" else 1e-5
    for in_chunks, expected in zip(probabilities(method, atlases), whole, strict=True):
        torch.testing.assert_close(in_chunks, expected, atol=atol, rtol=0)
