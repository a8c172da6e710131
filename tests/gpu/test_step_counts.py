"""How often a step waits for a pretended GPU, and how much it launches and moves.

A GPU is idle from when the host has waited for it until the host has launched more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from copied_run import linked
from second_device import DEVICE, SecondDevice, to_device, waits_per_step
from traffic import training_step

from atlasmith.config import Config, parse_config
from atlasmith.core import sampling
from atlasmith.core.grid import Grid
from atlasmith.io.tables import read_cohort
from atlasmith.optimization import instance_objective, optimize
from atlasmith.template import stage
from atlasmith.template.segmenter import train_segmenters
from atlasmith.template.stage import TemplateTraining
from atlasmith.training.device import seeded_generator

EVERYTHING: dict[str, Any] = {
    "label_similarity": {"dice": {"weight": 1.0}},
    "pairwise": {"mse": {"weight": 0.1}},
    "segmenter": {"steps": 1, "channels": [4, 8], "count": 2},
    "adversary": {"weight": 0.1, "channels": [4, 8]},
    "augment": True,
}


@pytest.fixture
def training(
    toy: Config, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., TemplateTraining]:
    """Prepare the training of a template with some settings, the others at their defaults."""
    monkeypatch.setattr(stage, "write_template", lambda *_: None)

    def prepare(**template: Any) -> TemplateTraining:
        values = toy.resolved() | {"output": str(tmp_path_factory.mktemp("training")), "device": "cuda"}
        kept = {key: values["template"][key] for key in ("name", "spacing", "condition_on")}
        values["template"] = kept | {"refinement": {"rounds": 0}} | template
        config = linked(toy, parse_config(values))
        return TemplateTraining(config, read_cohort(config.layout.cohort))

    return prepare


@pytest.mark.parametrize("settings", [{}, EVERYTHING], ids=["default", "everything"])
def test_a_training_step_waits_twice(
    settings: dict[str, Any], training: Callable[..., TemplateTraining], second_device: SecondDevice
) -> None:
    found = waits_per_step(second_device, lambda steps: training(steps=steps, **settings).run())
    assert found.total() <= 2, found


def test_a_segmenters_step_waits_twice(
    training: Callable[..., TemplateTraining], second_device: SecondDevice
) -> None:
    def run(steps: int) -> None:
        this = training(**EVERYTHING | {"segmenter": {"steps": steps, "channels": [4, 8], "count": 2}})
        assert this.model.segmenters is not None
        train_segmenters(this.config, this.model.segmenters.to(DEVICE), this.images)

    found = waits_per_step(second_device, run)
    assert found.total() <= 2, found


@pytest.mark.parametrize("channels", [1, 2])
def test_a_step_of_instance_optimization_doesnt_wait(channels: int, second_device: SecondDevice) -> None:
    shape, settings = (14, 13, 12), parse_config({"cohort": {"bids": "."}})
    images = (torch.rand(1, channels, *shape, generator=seeded_generator(0, k)) for k in range(2))
    given = to_device((*images, torch.ones(1, channels, *shape)))
    objective = instance_objective(*given, Grid(shape, np.eye(4)), **settings.objective)
    start = torch.zeros(1, 3, 7, 7, 6, device=DEVICE)
    found = waits_per_step(second_device, lambda steps: optimize(objective, start, steps, 0.1), steps=4)
    assert not found, found


def test_a_default_step_launches_little_and_moves_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """At 1 mm with a batch of 4, by shapes alone; an H100 moves 3 TB in a second."""
    monkeypatch.setattr(sampling, "MAX_SLABS", 1)  # as on a GPU; the shapes are a CPU's
    traffic = training_step((160, 192, 224), batch=4)
    assert traffic.launched.total() < 1500
    assert traffic.moved.total() < 95 * 2**30
