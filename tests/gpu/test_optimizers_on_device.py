"""Every optimizer gives on a pretended GPU what it gives on the CPU, and no step waits for it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from second_device import SecondDevice, to_device, to_host, waits_per_step
from torch import Tensor

from atlasmith.core.grid import Grid
from atlasmith.core.sampling import half_shape
from atlasmith.optimization import OPTIMIZERS, instance_objective, optimize
from atlasmith.training.device import seeded_generator
from atlasmith.transforms import deformation_model

SETTINGS = {"convex_adam": {"grid": 2, "reach": 2}, "keypoints": {"grid": 2, "reach": 2, "points": 20}}


@pytest.mark.parametrize("ndim", [2, pytest.param(3, marks=pytest.mark.slow)], ids=["2d", "3d"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers(name: str, ndim: int, second_device: SecondDevice) -> None:
    shape = (9, 8, 7)[:ndim]
    images = [torch.rand(1, 1, *shape, generator=seeded_generator(0, k)) for k in range(2)]
    tensors = (*images, torch.ones(1, 1, *shape), torch.full((1, ndim, *half_shape(shape)), 0.1))

    def run(fixed: Tensor, moving: Tensor, mask: Tensor, start: Tensor, steps: int) -> Tensor:
        objective = instance_objective(
            fixed,
            moving,
            mask,
            Grid((*shape, 1)[:3], np.eye(4)),  # type: ignore[arg-type]
            deformation=deformation_model(integration_steps=1),
            similarity={"mse": {"weight": 1.0}},
            regularization={"diffusion": {"weight": 0.1}},
        )
        return optimize(objective, start, steps, 0.1, name, SETTINGS.get(name))

    there = to_device(tensors)
    torch.testing.assert_close(to_host(run(*there, 2)), run(*tensors, 2), atol=2e-3, rtol=0)
    found = waits_per_step(second_device, lambda steps: run(*there, steps), steps=2)
    assert not found, found
