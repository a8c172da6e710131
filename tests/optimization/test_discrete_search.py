"""Searches of displacements in cost volumes and at key points."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from atlasmith.core.fields import compose, resize_displacement
from atlasmith.core.grid import Array, Grid
from atlasmith.core.sampling import half_shape, warp
from atlasmith.networks.correlation import correlation_offsets
from atlasmith.networks.cost_volume import mean_over_neighbors
from atlasmith.optimization import InstanceObjective, instance_objective, optimize
from atlasmith.optimization.descriptors import KNOWN, Features, dense_costs, describe
from atlasmith.optimization.discrete_search import (
    DiscreteSearch,
    block_sizes,
    coupled_convex,
    inverse_consistent,
    mean_field,
)
from atlasmith.optimization.keypoints import KeyPointSearch, patch_costs
from atlasmith.registration import register
from atlasmith.transforms import FORWARD, deformation_model


def texture(shape: Sequence[int], sigma: float, seed: int = 0) -> Array:
    """Smooth noise in [0, 1]."""
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=shape), sigma)
    return ((noise - noise.min()) / np.ptp(noise)).astype(np.float32)


def random_features(shape: Sequence[int], seed: int, kinds: int = 2) -> Features:
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(2, kinds, 3, *shape, generator=generator)
    weight = (torch.rand(2, kinds, 1, *shape, generator=generator) > 0.3).float()
    return Features(values, weight, 12.0)


def brute_force_cost(
    fixed: Features, moving: Features, place: Sequence[int], offset: Sequence[int]
) -> Tensor:
    """Summed squared differences and weights (B, K) of one voxel and one displacement."""
    there = [a + b for a, b in zip(place, offset, strict=True)]
    inside = all(0 <= i < n for i, n in zip(there, fixed.values.shape[3:], strict=True))
    if not all(0 <= i < n for i, n in zip(place, fixed.values.shape[3:], strict=True)):
        return torch.zeros(2, *fixed.values.shape[:2])
    image = moving.values[..., *there] if inside else torch.zeros(())
    weight = fixed.weight[..., *place] * (moving.weight[..., *there] if inside else 1)
    return torch.stack([((fixed.values[..., *place] - image).square() * weight).mean(2), weight[:, :, 0]])


def costs_of(sums: Tensor, scale: float) -> Tensor:
    """Costs (B, L) of sums (L, 2, B, K) of squared differences and of weights; their mean where unknown."""
    total, weight = sums.sum(3).unbind(1)
    known = weight > KNOWN
    mean = (total * known).sum(0) / (weight * known).sum(0).clamp(min=KNOWN)
    return scale * torch.where(known, total / weight.clamp(min=KNOWN), mean).T


@pytest.mark.parametrize("shape", [(4, 3), (3, 2, 2)], ids=["2d", "3d"])
def test_costs_are_those_by_brute_force(shape: tuple[int, ...]) -> None:
    fixed, moving = random_features(shape, 0), random_features(shape, 1)
    found = dense_costs([fixed], [moving], 1)
    offsets = correlation_offsets(len(shape), 1).long().tolist()
    for place in itertools.product(*(range(n) for n in shape)):
        sums = torch.stack([brute_force_cost(fixed, moving, place, offset) for offset in offsets])
        torch.testing.assert_close(found[..., *place], costs_of(sums, 12.0), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("ndim", [2, 3])
def test_costs_of_patches_are_those_by_brute_force(ndim: int) -> None:
    shape = (5, 4, 3)[:ndim]
    fixed, moving = random_features(shape, 0, 1), random_features(shape, 1, 1)
    places = torch.tensor([[[0] * ndim, [2] * ndim]]).expand(2, -1, -1)
    found = patch_costs([fixed], [moving], places, 1)
    steps = correlation_offsets(ndim, 1).long().tolist()
    for number, place in enumerate(places[0].tolist()):
        around = [[a + b for a, b in zip(place, step, strict=True)] for step in steps]
        sums = [sum(brute_force_cost(fixed, moving, near, offset) for near in around) for offset in steps]
        torch.testing.assert_close(
            found[:, :, number], costs_of(torch.stack(sums) / 3**ndim, 12.0), atol=1e-4, rtol=1e-4
        )


@pytest.mark.parametrize("ndim", [2, 3])
def test_the_least_cost_of_one_displacement_is_found_exactly(ndim: int) -> None:
    """By either regularization, for each displacement: the soft argmax of a delta is exact."""
    offsets = correlation_offsets(ndim, 2)
    shape = (4, 3, 4)[:ndim]
    for label in range(0, len(offsets), 4):
        cost = torch.ones(1, len(offsets), *shape)
        cost[:, label] = 0
        expected = offsets[label].view(1, -1, *[1] * ndim).expand(1, -1, *shape)
        assert torch.equal(coupled_convex(cost, [1.0] * ndim), expected)
        found = mean_field(100 * cost, ndim, lambda x: torch.zeros_like(x))
        torch.testing.assert_close(found, expected)


def test_steps_count_by_their_length() -> None:
    """Of two displacements with equal costs, the neighbors' choice decides by mm."""
    cost = torch.ones(1, 9, 7, 7)
    first, second, middle = 7, 5, 4  # (1, 0), (0, 1) and none
    cost[:, middle] = 0
    cost[:, :, 3, 3] = 1
    cost[:, [first, second], 3, 3] = 0.5  # the middle's cost is 1
    for ratios, expected in (([0.1, 1.0], 1 / 9), ([1.0, 0.1], 0.0)):
        assert coupled_convex(cost, ratios)[0, 0, 3, 3] == pytest.approx(expected, abs=1e-6)
    assert block_sizes(6, (1.0, 2.0, 5.0), (40, 40, 40)) == [6, 3, 1]
    assert block_sizes(6, (1.0, 1.0), (40, 4)) == [6, 4]


def test_equal_costs_move_nothing() -> None:
    assert not coupled_convex(torch.ones(1, 27, 4, 4, 4), [1.0] * 3).any()


def separable(shape: Sequence[int], shift: Sequence[int]) -> list[list[Features]]:
    """Features of one axis each, of a volume and of that volume shifted."""
    found = []
    for offset in ([0] * len(shape), shift):
        maps = []
        for axis, n in enumerate(shape):
            profile = torch.from_numpy(texture([n], 1.0, axis)).roll(offset[axis])
            maps.append(profile.view([-1 if i == axis else 1 for i in range(len(shape))]).expand(*shape))
        values = torch.stack(maps)[None, None]
        found.append([Features(values, torch.ones_like(values[:, :, :1]), 12.0)])
    return found


def test_the_search_in_planes_equals_the_full_one_where_costs_are_separable() -> None:
    shape = (22, 21, 20)
    features = separable(shape, (2, -1, 1))
    inner = (..., slice(9, -9), slice(9, -9), slice(9, -9))  # out of reach of the border, where nothing is
    fields = [
        DiscreteSearch(1, 2, planes=planes)(*features, (1.0,) * 3, shape)[inner] for planes in (False, True)
    ]
    torch.testing.assert_close(fields[0], fields[1], atol=1e-5, rtol=0)
    expected = torch.tensor([2.0, -1.0, 1.0]).view(1, 3, 1, 1, 1).expand_as(fields[0])
    torch.testing.assert_close(fields[0], expected, atol=0.1, rtol=0)


def smooth_field(shape: Sequence[int], amplitude: float) -> Tensor:
    """Displacement (1, d, *shape), 0 at the border."""
    axes = np.meshgrid(*[np.sin(np.linspace(0, np.pi, n)) ** 2 for n in shape], indexing="ij")
    signs = torch.tensor([1.0, -0.8, 0.6])[: len(shape)].view(1, -1, *[1] * len(shape))
    return torch.from_numpy(amplitude * np.prod(axes, axis=0)).float()[None, None] * signs


def test_displacements_become_each_others_inverse() -> None:
    forward = smooth_field((20, 20), 2.0)
    found = inverse_consistent(forward, torch.zeros_like(forward))
    assert compose(*found).abs().max() < 0.05
    assert compose(*found[::-1]).abs().max() < 0.05


def test_what_is_masked_does_not_count() -> None:
    """A bright block that one image alone has, and that lies under its mask."""
    shape = (36, 36)
    moving = torch.from_numpy(texture(shape, 2.0))[None, None]
    fixed = warp(moving, smooth_field(shape, 4.0), padding="border")
    mask = torch.ones_like(fixed)
    mask[..., 12:20, 12:20] = 0

    def search(value: float) -> Tensor:
        image = torch.where(mask == 0, value, fixed)
        features = describe(image, mask, 1, 2, 0.0), describe(moving, torch.ones_like(mask), 1, 2, 0.0)
        return DiscreteSearch(3, 3)(*features, (1.0, 1.0), shape)

    torch.testing.assert_close(search(1.0), search(-3.0), atol=0.05, rtol=0)


def test_the_search_is_that_of_the_package() -> None:
    """Within 0.1 voxel at 99 % of voxels.

    Their inverse consistency warps by displacements that are n / (n - 1) times too long, for n coarse voxels;
    where that is corrected, the difference is below 0.001 voxel. Their averages take what lies beyond the
    border to be 0.
    """
    package = pytest.importorskip("convexAdam.convex_adam_MIND", reason="pip install -e '.[peers]'")
    utilities = pytest.importorskip("convexAdam.convex_adam_utils")
    shape, grid, reach = (48, 42, 54), 3, 4
    moving = torch.from_numpy(texture(shape, 2.5))[None, None]
    fixed = warp(moving, smooth_field(shape, 6.0), padding="border")
    options = {"grid_sp": grid, "disp_hw": reach, "lambda_weight": 0, "device": torch.device("cpu")}

    def theirs(first: Tensor, second: Tensor, consistent: bool) -> Tensor:
        found = package.convex_adam_pt(
            first[0, 0], second[0, 0], ic=consistent, dtype=torch.float32, **options
        )
        return torch.from_numpy(found).movedim(-1, 0)[None].float()

    both = [describe(image, torch.ones_like(image), 1, 2, 0.0) for image in (fixed, moving)]
    coarse = [[kind.pooled([grid] * 3) for kind in features] for features in both]
    ours = [
        coupled_convex(mean_over_neighbors(dense_costs(*pair, reach)), [1.0] * 3)
        for pair in (coarse, coarse[::-1])
    ]
    assert ours[0].abs().max() * grid > 2
    torch.testing.assert_close(ours[0], theirs(fixed, moving, consistent=False), atol=1e-5, rtol=0)
    assert (ours[1] - theirs(moving, fixed, consistent=False)).abs().max() * grid < 0.15
    half = torch.tensor(ours[0].shape[2:]).view(1, 3, 1, 1, 1) / 2
    scaled = [(field / half).flip(1) for field in ours]
    expected = utilities.inverse_consistency(*scaled, iter=15)[0].flip(1) * half
    torch.testing.assert_close(inverse_consistent(*ours)[0], expected, atol=1e-3 / grid, rtol=0)
    found = DiscreteSearch(grid, reach)(*both, (1.0,) * 3, shape)
    difference = (found - theirs(fixed, moving, consistent=True)).abs().amax(1)
    assert difference.mean() < 0.01 and (difference < 0.1).float().mean() > 0.99


def planted(ndim: int, size: int, distance: int) -> tuple[Tensor, Tensor, Array, Array]:
    """A textured object, the same shifted by whole voxels, the shift, and the object's mask."""
    shape = (size,) * ndim
    axes = np.stack(np.meshgrid(*[np.arange(size) - (size - 1) / 2] * ndim, indexing="ij"))
    radii = size * np.array([0.22, 0.18, 0.2])[:ndim].reshape(-1, *[1] * ndim)
    inside = ((axes / radii) ** 2).sum(0) < 1
    image = np.where(inside, 0.3 + 0.7 * texture(shape, 2.0), 0).astype(np.float32)
    direction = np.array([0.4, 0.8, 0.45])[:ndim]
    shift = np.rint(distance * direction / np.linalg.norm(direction)).astype(int)
    moving = np.roll(image, shift, axis=range(ndim))
    return torch.from_numpy(image)[None, None], torch.from_numpy(moving)[None, None], shift, inside


def residual(objective: InstanceObjective, coefficients: Tensor, shift: Array, inside: Array) -> float:
    """The median distance of the displacement from the planted one within the object, voxels."""
    maps = objective.deformation.maps(coefficients, objective.spacing(coefficients.shape[2:]))
    found = resize_displacement(maps[FORWARD], objective.fixed.shape[2:])[0].numpy()
    planted = shift.reshape(-1, *[1] * len(shift))
    return float(np.median(np.linalg.norm(found - planted, axis=0)[inside]))


SEARCHES: dict[str, dict[str, Any]] = {"convex_adam": {"grid": 4, "reach": 5}, "keypoints": {"points": 128}}


CONVEX, KEYPOINTS = SEARCHES.items()
ALL = [CONVEX, KEYPOINTS, ("convex_adam", CONVEX[1] | {"regularization": "mean_field"})]


@pytest.mark.parametrize(
    ("ndim", "size", "distance", "searches"),
    [
        (2, 64, 15, ALL),
        (3, 36, 8, [("convex_adam", {"grid": 3, "reach": 4})]),
        pytest.param(
            3, 64, 15, [*ALL, ("convex_adam", CONVEX[1] | {"planes": True})], marks=pytest.mark.slow
        ),
    ],
)
def test_large_shifts_are_found_by_search_alone(
    ndim: int, size: int, distance: int, searches: Sequence[tuple[str, dict[str, Any]]]
) -> None:
    fixed, moving, shift, inside = planted(ndim, size, distance)
    objective = instance_objective(
        fixed,
        moving,
        torch.ones_like(moving),
        Grid((*fixed.shape[2:], 1)[:3], np.eye(4)),  # type: ignore[arg-type]
        deformation=deformation_model(integration_steps=4),
        similarity={"lncc": {"weight": 1.0}},
        regularization={"diffusion": {"weight": 0.4}},
    )
    start = torch.zeros(1, ndim, *half_shape(fixed.shape[2:]))

    def distance_left(name: str, settings: dict[str, Any]) -> float:
        return residual(objective, optimize(objective, start, 10, 0.15, name, settings), shift, inside)

    assert distance_left("adam", {}) > 0.7 * distance
    for name, settings in searches:
        assert distance_left(name, settings) < 2, (name, settings)


def test_large_shifts_are_found_by_register() -> None:
    fixed, moving, _, inside = planted(2, 64, 15)
    images = fixed[0, 0].numpy(), moving[0, 0].numpy()
    errors = {}
    for name, settings in {"adam": {"levels": 1}, **SEARCHES}.items():
        result = register(*images, steps=10, optimizer=name, optimizer_settings=settings, device="cpu")
        errors[name] = abs(result.warped - images[0])[inside].mean()
        assert result.metrics["nonpositive_jacobian_percent"] == 0
    assert errors["convex_adam"] < 0.3 * errors["adam"] and errors["keypoints"] < 0.3 * errors["adam"]


def test_key_points_find_a_rotation_in_mm() -> None:
    """On voxels of two sizes, of which the displacement is in half-resolution ones."""
    shape, spacing = (48, 32), (1.0, 1.5)
    places = np.stack(
        np.meshgrid(*[np.arange(n) * s for n, s in zip(shape, spacing, strict=True)], indexing="ij")
    )
    center = places.reshape(2, -1).mean(1).reshape(2, 1, 1)
    rotation = np.array([[np.cos(0.2), -np.sin(0.2)], [np.sin(0.2), np.cos(0.2)]])
    moved = np.tensordot(rotation, places - center, 1) + center
    field = (moved - places) / np.array(spacing).reshape(2, 1, 1)
    moving = torch.from_numpy(texture(shape, 1.5))[None, None]
    fixed = warp(moving, torch.from_numpy(field).float()[None], padding="border")
    features = [describe(image, torch.ones_like(image), 1, 2, 0.0) for image in (fixed, moving)]
    half = half_shape(shape)
    found = resize_displacement(KeyPointSearch(128, 2, 5, 6, 0.1)(fixed, *features, spacing, half), shape)[
        0
    ].numpy()
    error = np.linalg.norm((found - field)[:, 8:-8, 6:-6], axis=0)
    assert np.median(error) < 0.6 < np.median(np.linalg.norm(field[:, 8:-8, 6:-6], axis=0)) / 3


def test_labels_are_matched_where_intensities_tell_nothing() -> None:
    shape = (40, 40)
    image = torch.zeros(1, 2, *shape)  # an intensity and the probability of a label
    image[:, 1, 12:22, 14:24] = 1
    moved = image.roll((6, -4), dims=(2, 3))
    features = [describe(x, torch.ones(1, 1, *shape), 1, 2, 10.0) for x in (image, moved)]
    found = DiscreteSearch(2, 5)(*features, (1.0, 1.0), shape)[0, :, 17, 19]
    torch.testing.assert_close(found, torch.tensor([6.0, -4.0]), atol=0.7, rtol=0)
