"""Calibration of logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import get_args

import pytest
import torch

from atlasmith.fusion.votenet.calibration import CALIBRATIONS, fit_calibration
from atlasmith.fusion.votenet.settings import VoteNetSettings


def planted(logit: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> list[torch.Tensor]:
    """Overconfident logits, a network's inputs with them, and whether they were right."""
    generator = torch.Generator().manual_seed(0)
    z, inputs = 3 * torch.randn(40_000, generator=generator), torch.randn(40_000, 2, generator=generator)
    return [z, inputs, (torch.rand(len(z), generator=generator) < logit(z, inputs).sigmoid()).float()]


def calibrated(name: str, samples: Sequence[torch.Tensor]) -> torch.nn.Module:
    torch.manual_seed(0)
    calibration = CALIBRATIONS[name](2)
    fit_calibration(calibration, *samples)
    return calibration


def test_the_config_offers_all_calibrations() -> None:
    assert set(get_args(VoteNetSettings.model_fields["calibration"].annotation)) == set(CALIBRATIONS)


@pytest.mark.parametrize("name", CALIBRATIONS)
def test_calibrations_find_a_planted_temperature(name: str) -> None:
    z, inputs, right = planted(lambda z, inputs: 0.6 * z)
    found = calibrated(name, (z, inputs, right))(z, inputs).detach()
    assert (found.sigmoid() - (0.6 * z).sigmoid()).abs().mean() < 0.01
    separated = [torch.tensor([-1.0, 1, 2]), torch.zeros(3, 2), torch.tensor([0.0, 1, 1])]
    assert calibrated(name, separated)(*separated[:2]).abs().max() < 10


def test_platt_finds_an_offset_and_a_local_temperature_where_it_applies() -> None:
    platt = calibrated("platt", planted(lambda z, inputs: 0.6 * z - 0.5))
    assert (platt.scale.item(), platt.offset.item()) == pytest.approx((0.6, -0.5), abs=0.03)
    z, inputs, right = planted(lambda z, inputs: z * (0.3 + 0.7 * inputs[:, 0].sigmoid()))
    wanted = (z * (0.3 + 0.7 * inputs[:, 0].sigmoid())).sigmoid()
    found = {n: calibrated(n, (z, inputs, right))(z, inputs).detach() for n in CALIBRATIONS}
    errors = {name: float((logits.sigmoid() - wanted).abs().mean()) for name, logits in found.items()}
    assert errors["local_temperature"] < 0.01 < 0.02 < errors["temperature"]
    for name in ("temperature", "local_temperature"):
        assert ((found[name] > 0) == (z > 0)).all()  # decisions at one half stay
