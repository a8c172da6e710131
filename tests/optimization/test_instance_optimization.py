"""Instance optimization of several images at once: each ends where it would have ended alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from atlasmith.core.grid import Grid
from atlasmith.core.sampling import resize, warp
from atlasmith.losses import REGULARIZERS, Objective
from atlasmith.optimization import InstanceObjective, instance_objective, optimize
from atlasmith.optimization.adam import adam
from atlasmith.transforms import DIRECTIONS, FORWARD, INVERSE, deformation_model

SHAPES = {"2d": (22, 20), "3d": (14, 13, 12)}
TERMS = {
    "similarity": {"lncc": {"weight": 1.0, "window": 5}, "mse": {"weight": 5.0}},
    "regularization": {"diffusion": {"weight": 0.4}, "magnitude": {"weight": 0.01}},
    "deformation": deformation_model(integration_steps=4),
}


def images(shape: Sequence[int], count: int, channels: int = 1, seed: int = 0) -> Tensor:
    """Smooth random images (count, channels, *shape) in [0, 1]."""
    random = np.random.default_rng(seed)
    fields = [gaussian_filter(random.normal(size=shape), 2) for _ in range(count * channels)]
    scaled = np.stack([(x - x.min()) / np.ptp(x) for x in fields])
    return torch.from_numpy(scaled).float().view(count, channels, *shape)


def setting(shape: Sequence[int], fixed: Tensor, moving: Tensor, mask: Tensor) -> InstanceObjective:
    axes = (*shape, 1)[:3]
    return instance_objective(fixed, moving, mask, Grid(axes, np.eye(4)), **TERMS)  # type: ignore[arg-type]


def velocities(shape: Sequence[int], count: int) -> Tensor:
    return torch.zeros(count, len(shape), *(-(-n // 2) for n in shape))


@pytest.mark.parametrize("dims", SHAPES)
def test_an_image_of_a_batch_ends_where_it_would_alone(dims: str) -> None:
    """Within rounding, which Adam's first steps amplify where there is no gradient: 0.005 voxels.

    In two channels, of which one image has but the first.
    """
    shape = SHAPES[dims]
    fixed, moving = images(shape, 3, 2), images(shape, 3, 2, seed=1)
    mask = torch.ones_like(moving)
    mask[1, 1] = moving[1, 1] = 0
    start = velocities(shape, 3)
    together = optimize(setting(shape, fixed, moving, mask), start, 12, 0.1)
    for index in range(3):
        one = [x[index : index + 1] for x in (fixed, moving, mask, start)]
        alone = optimize(setting(shape, *one[:3]), one[3], 12, 0.1)
        assert alone.abs().max() > 0.1
        torch.testing.assert_close(together[index : index + 1], alone, atol=0.005, rtol=0)


@pytest.mark.parametrize("dims", SHAPES)
def test_an_image_does_not_depend_on_the_others_of_its_batch(dims: str) -> None:
    """To the last bit on a CPU, even where another one isn't finite."""
    shape = SHAPES[dims]
    fixed, moving, mask = images(shape, 3), images(shape, 3, seed=1), torch.ones(3, 1, *shape)
    first = optimize(setting(shape, fixed, moving, mask), velocities(shape, 3), 8, 0.1)
    for replacement in (images(shape, 1, seed=2), torch.full((1, 1, *shape), torch.nan)):
        others = torch.cat([moving[:1], replacement, moving[2:]])
        again = optimize(setting(shape, fixed, others, mask), velocities(shape, 3), 8, 0.1)
        assert torch.equal(first[[0, 2]], again[[0, 2]])
        assert not torch.equal(first[1], again[1])


@pytest.mark.parametrize("name", [name for name, r in REGULARIZERS.items() if not r.training_only])
def test_regularizers_are_means_over_the_batch(name: str) -> None:
    """So that the gradient of their sum is each image's own."""
    shape = SHAPES["2d"]
    fields = images(shape, 3, 2, seed=3), -images(shape, 3, 2, seed=3)
    given = {"velocity": fields[0], "forward": fields[0], "inverse": fields[1], "fixed": images(shape, 3)}

    def cost(rows: slice) -> Tensor:
        needed = {need: given[need][rows] for need in REGULARIZERS[name].needs}
        return REGULARIZERS[name](**needed, spacing=(1.0, 1.5))

    alone = torch.stack([cost(slice(index, index + 1)) for index in range(3)])
    torch.testing.assert_close(cost(slice(None)), alone.mean())


def test_the_result_is_chosen_for_each_image() -> None:
    """The first image improves, the second starts at its optimum, the third folds as soon as it moves."""
    target, folds = (torch.tensor(x).view(3, 1, 1, 1) for x in ([1.0, 0.0, 1.0], [0.0, 0.0, 1.0]))

    def objective(
        velocity: Tensor, directions: Sequence[int] = DIRECTIONS, chosen: slice = slice(None)
    ) -> Objective:
        loss = (velocity - target[chosen]).square().mean()
        moved = (velocity != 0).flatten(1).any(1).view(-1, 1, 1, 1)
        mirrored = -2 * torch.arange(4.0).view(1, 1, 4, 1) * folds[chosen] * moved
        forward = torch.cat([mirrored, torch.zeros_like(mirrored)], dim=1).expand(-1, -1, -1, 4)
        return Objective({"distance": loss}, {FORWARD: forward, INVERSE: -forward})

    start = torch.zeros(3, 2, 4, 4)
    found = optimize(objective, start, 30, 0.2)
    torch.testing.assert_close(found[0], torch.ones(2, 4, 4), atol=0.1, rtol=0)
    assert torch.equal(found[1:], start[1:])


@pytest.mark.parametrize("count", [1, 40])
def test_rounding_moves_nothing(count: int) -> None:
    """Of a gradient, in voxels whose own is 0, whatever the number of images and voxels."""
    rounding = 3e-8 * torch.from_numpy(np.random.default_rng(0).normal(size=(count, 2, 30, 4))).float()

    def objective(
        velocity: Tensor, directions: Sequence[int] = DIRECTIONS, chosen: slice = slice(None)
    ) -> Objective:
        squares = (velocity[..., :15, :] - 1).square()
        loss = (squares.sum() + (rounding[chosen] * velocity)[..., 15:, :].sum()) / velocity[:, 0].numel()
        return Objective({"distance": loss}, {FORWARD: 0 * velocity, INVERSE: 0 * velocity})

    found = optimize(objective, torch.zeros(count, 2, 30, 4), 30, 0.2, "adam", {"smoothing": 0.0})
    assert (found[..., :15, :] - 1).abs().max() < 0.1
    assert found[..., 15:, :].abs().max() < 0.01


@pytest.mark.parametrize("dims", SHAPES)
def test_a_fold_at_one_voxel_is_smoothed_and_the_rest_is_kept(dims: str) -> None:
    half = [-(-n // 2) for n in SHAPES[dims]]
    target = torch.full((1, len(half), *half), 0.8)
    target[0, 0, *(n // 3 for n in half)] = 4.0  # its neighbor is 0.8: the map folds between them

    def objective(
        coefficients: Tensor, directions: Sequence[int] = DIRECTIONS, chosen: slice = slice(None)
    ) -> Objective:
        loss = (coefficients - target).square().mean()
        return Objective({"distance": loss}, {FORWARD: coefficients, INVERSE: -coefficients})

    assert objective(target).folds > 0
    found = optimize(objective, torch.zeros_like(target), 60, 0.3)
    assert objective(found).folds == 0
    torch.testing.assert_close(found[:, :, -2:], target[:, :, -2:], atol=0.05, rtol=0)


def test_finer_levels_have_fewer_steps() -> None:
    shape = (64, 56)
    fixed, moving = images(shape, 1), images(shape, 1, seed=1)
    calls: dict[tuple[int, ...], int] = {}

    def counted(self: InstanceObjective, coefficients: Tensor, *args: Any) -> Objective:
        size = tuple(self.fixed.shape[2:])
        calls[size] = calls.get(size, 0) + 1
        return InstanceObjective.__call__(self, coefficients, *args)

    class Counted(InstanceObjective):
        __call__ = counted

    plain = setting(shape, fixed, moving, torch.ones_like(moving))
    objective = Counted(**{field.name: getattr(plain, field.name) for field in fields(plain)})
    adam(objective, velocities(shape, 1), 12, 0.1, levels=2, steps_ratio=0.5)
    assert list(calls.values()) == [12, 6] and list(calls) == [(33, 29), shape]


@pytest.mark.parametrize("seed", [0, 1])
def test_smooth_updates_recover_more_of_a_planted_warp(seed: int) -> None:
    """Of noisy images, at the same weight of the regularizers, which alone take much off a large warp."""
    shape, half, random = (64, 56), (32, 28), np.random.default_rng(seed)
    model = deformation_model(integration_steps=4)
    moving = images(shape, 1, seed=seed)
    velocity = np.stack([gaussian_filter(random.normal(size=half), 6) for _ in range(2)])
    planted = torch.from_numpy(1.5 * velocity / velocity.std()).float()[None]
    grid = Grid((*shape, 1), np.eye(4))
    true = model.maps(planted, grid.coarser_spacing(half), [FORWARD])[FORWARD]
    fixed = warp(moving, resize(true, shape) * 63 / 31)
    noisy = [x + 0.03 * torch.from_numpy(random.normal(size=shape)).float() for x in (fixed, moving)]
    objective = setting(shape, *noisy, torch.ones_like(moving))

    def error(smoothing: float) -> float:
        found = optimize(objective, velocities(shape, 1), 60, 0.15, "adam", {"smoothing": smoothing})
        maps = model.maps(found, grid.coarser_spacing(half), [FORWARD])[FORWARD]
        return float((maps - true)[..., 4:-4, 4:-4].norm(dim=1).mean())

    assert true.norm(dim=1).max() > 4
    assert error(1.5) < 0.85 * error(0.0)
