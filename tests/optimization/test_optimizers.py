"""What every optimizer keeps to, in 2-D and 3-D, for a field of either kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from atlasmith.core.grid import Grid
from atlasmith.core.sampling import half_shape
from atlasmith.optimization import OPTIMIZERS, InstanceObjective, instance_objective, optimize
from atlasmith.transforms import deformation_model

SHAPES = {"2d": (17, 14), "3d": (9, 8, 7)}
STEPS = 3
# Enough for images of this size.
SETTINGS: dict[str, dict[str, Any]] = {
    "convex_adam": {"grid": 2, "reach": 2},
    "keypoints": {"grid": 2, "reach": 2, "points": 20, "neighbors": 4},
}


def images(shape: Sequence[int], count: int, channels: int, seed: int) -> Tensor:
    """Smooth random images (count, channels, *shape) in [0, 1]."""
    random = np.random.default_rng(seed)
    fields = [gaussian_filter(random.normal(size=shape), 1.5) for _ in range(count * channels)]
    scaled = np.stack([(x - x.min()) / np.ptp(x) for x in fields])
    return torch.from_numpy(scaled).float().view(count, channels, *shape)


def pairs(shape: Sequence[int]) -> tuple[Tensor, ...]:
    """Two pairs of two channels, of which the second has but one, with masks, on voxels of several sizes."""
    fixed, moving = images(shape, 2, 2, 0), images(shape, 2, 2, 1)
    mask, fixed_mask = torch.ones_like(moving), torch.ones_like(fixed)
    mask[1, 1] = moving[1, 1] = 0
    mask[:, :, :2], fixed_mask[:, :, -2:] = 0, 0
    return fixed, moving, mask, fixed_mask


def objective(tensors: Sequence[Tensor], parametrization: str) -> InstanceObjective:
    fixed, moving, mask, fixed_mask = tensors
    spacing = np.diag([1.0, 1.5, 2.0, 1.0])
    return instance_objective(
        fixed,
        moving,
        mask,
        Grid((*fixed.shape[2:], 1)[:3], spacing),  # type: ignore[arg-type]
        deformation=deformation_model(parametrization, integration_steps=2),
        similarity={"mse": {"weight": 5.0}},
        regularization={"diffusion": {"weight": 0.1}},
        fixed_mask=fixed_mask,
    )


@pytest.mark.parametrize(
    ("dims", "parametrization"),
    [
        ("2d", "displacement"),
        ("3d", "stationary_velocity"),
        pytest.param("2d", "stationary_velocity", marks=pytest.mark.slow),
        pytest.param("3d", "displacement", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_no_image_ends_worse_or_depends_on_chance_or_on_others(
    name: str, dims: str, parametrization: str
) -> None:
    tensors, settings = pairs(SHAPES[dims]), SETTINGS.get(name)
    both = objective(tensors, parametrization)
    start = 0.1 * torch.ones(2, len(SHAPES[dims]), *half_shape(SHAPES[dims]))
    found = optimize(both, start, STEPS, 0.1, name, settings)
    for index in range(2):
        chosen = slice(index, index + 1)
        assert both(found[chosen], chosen=chosen).loss < both(start[chosen], chosen=chosen).loss
    assert torch.equal(found, optimize(both, start, STEPS, 0.1, name, settings))
    second = objective([x[1:] for x in tensors], parametrization)
    alone = optimize(second, start[1:], STEPS, 0.1, name, settings)
    torch.testing.assert_close(found[1:], alone, atol=0.005, rtol=0)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_images_without_content_stay_where_they_are(name: str) -> None:
    """Whatever can't be matched: nothing fails, and nothing moves."""
    shape = SHAPES["2d"]
    blank = torch.zeros(1, 1, *shape)
    known = torch.ones_like(blank)
    still = objective((blank, blank, known, known), "stationary_velocity")
    start = torch.zeros(1, 2, *half_shape(shape))
    assert torch.equal(optimize(still, start, STEPS, 0.1, name, SETTINGS.get(name)), start)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_thin_slabs(name: str) -> None:
    tensors = pairs((12, 9, 3))
    slab = objective(tensors, "displacement")
    start = torch.zeros(2, 3, 6, 5, 2)
    found = optimize(slab, start, STEPS, 0.1, name)  # by its defaults, whose grid is larger than the slab
    assert found.isfinite().all() and slab(found).loss <= slab(start).loss
