"""Cost volumes: equal to sums over voxels, exact for planted shifts, in planes too where costs are sums."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.ndimage import minimum_filter, uniform_filter
from torch import Tensor

from atlasmith.networks import NETWORKS
from atlasmith.networks.correlation import correlation_offsets
from atlasmith.networks.cost_volume import (
    displacement_moments,
    mean_over_neighbors,
    min_convolution,
    squared_differences,
    squared_differences_in_planes,
)
from atlasmith.networks.registration.pdd import DisplacementSearch
from atlasmith.training.device import seeded_generator


@pytest.mark.parametrize(("shape", "reach", "step"), [((5, 6), 2, 1), ((4, 3, 5), 1, 2)], ids=str)
def test_costs_equal_brute_force(shape: tuple[int, ...], reach: int, step: int) -> None:
    fixed, moving = torch.randn(2, 2, 3, *shape).numpy()
    found = squared_differences(torch.from_numpy(fixed), torch.from_numpy(moving), reach, step)
    expected = np.empty(found.shape)
    for k, offset in enumerate(correlation_offsets(len(shape), reach, step).int().numpy()):
        for x in itertools.product(*map(range, shape)):
            y = tuple(np.add(x, offset))
            inside = all(0 <= a < n for a, n in zip(y, shape, strict=True))
            other = moving[:, :, *y] if inside else 0
            expected[:, k, *x] = np.square(fixed[:, :, *x] - other).mean(1)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_costs_in_planes_are_those_of_the_volume() -> None:
    fixed, moving = torch.randn(2, 2, 3, 5, 4, 3)
    full = squared_differences(fixed, moving, 1).unflatten(1, (3, 3, 3))
    planes = squared_differences_in_planes(fixed, moving, 1)
    for axis, cost in enumerate(planes):
        torch.testing.assert_close(cost, full.select(2 + axis - 1, 1).flatten(1, 2), atol=1e-5, rtol=1e-5)


def local_average(x: np.ndarray) -> np.ndarray:
    return uniform_filter(x, 3, mode="constant") / uniform_filter(np.ones_like(x), 3, mode="constant")


@pytest.mark.parametrize("ndim", [2, 3])
def test_regularization_equals_scipy(ndim: int) -> None:
    cost = torch.randn(2, 5**ndim, 3, 4, 2)
    agreed, averaged = min_convolution(cost, ndim), mean_over_neighbors(cost)
    for x in itertools.product(range(2), (0, 2), (1, 3), (0, 1)):
        labels = cost[x[0], :, *x[1:]].reshape([5] * ndim).numpy()
        expected = local_average(local_average(minimum_filter(labels, 3)))
        np.testing.assert_allclose(agreed[x[0], :, *x[1:]], expected.ravel(), atol=1e-5)
    expected = local_average(local_average(cost[1, 7].numpy()))
    np.testing.assert_allclose(averaged[1, 7], expected, atol=1e-5)


def test_moments_of_displacements() -> None:
    cost = torch.randn(2, 25, 3, 4)
    mean, variance = displacement_moments(cost, 2, step=3)
    offsets = correlation_offsets(2, 2, 3).numpy()
    weights = np.exp(-cost[1, :, 2, 1].double().numpy())
    expected = np.average(offsets, axis=0, weights=weights)
    np.testing.assert_allclose(mean[1, :, 2, 1], expected, rtol=1e-4, atol=1e-4)
    spread = np.average((offsets - expected) ** 2, axis=0, weights=weights)
    np.testing.assert_allclose(variance[1, :, 2, 1], spread, rtol=1e-4)


def features(shape: tuple[int, ...]) -> Tensor:
    return torch.randn(1, 8, *shape, generator=seeded_generator(0, 0))


@pytest.mark.parametrize(
    ("shape", "shift", "step"),
    [((16, 15), (2, -1), 1), ((19, 18), (4, -2), 2), ((12, 12, 12), (1, 0, -1), 1)],
    ids=str,
)
def test_search_is_exact_for_shifts_by_steps(
    shape: tuple[int, ...], shift: tuple[int, ...], step: int
) -> None:
    """Where costs are sharp, and no nearer to the border than displacements and neighborhoods go."""
    search = DisplacementSearch(len(shape), reach=5 - len(shape), step=step)
    search.log_sharpness.data.fill_(6.0)
    moving = features(shape)
    fixed = moving.roll([-s for s in shift], dims=list(range(2, moving.ndim)))
    mean, variance = search(fixed, moving)
    inner = (..., *[slice(5, -5)] * len(shape))
    expected = torch.tensor(shift, dtype=torch.float32).view(1, -1, *[1] * len(shape))
    torch.testing.assert_close(mean[inner], expected.expand_as(mean[inner]), atol=1e-4, rtol=0)
    assert variance[inner].max() < 1e-3


def of_one_coordinate(lines: Tensor) -> Tensor:
    """Features (1, 3, 13, 13, 13), each of which depends on one coordinate, by lines (3, 13)."""
    x, y, z = lines
    return torch.stack(torch.meshgrid(x, y, z, indexing="ij"))[None]


@pytest.mark.parametrize("shift", [None, (1, 0, -1)], ids=["unrelated", "shifted"])
def test_planes_equal_the_volume_where_costs_are_separable(shift: tuple[int, ...] | None) -> None:
    """Each feature depends on one coordinate, so that the costs are sums over axes."""
    lines = torch.stack([torch.randperm(13, generator=seeded_generator(i, 0)) / 4 for i in range(6)])
    fixed, moving = map(of_one_coordinate, lines.view(2, 3, 13))
    if shift is not None:
        fixed = moving.roll([-s for s in shift], dims=(2, 3, 4))
    means = []
    for planes in (False, True):
        search = DisplacementSearch(3, reach=1, planes=planes)
        search.log_sharpness.data.fill_(0.0 if shift is None else 8.0)
        means.append(search(fixed, moving)[0][..., 5:-5, 5:-5, 5:-5])
    torch.testing.assert_close(means[1], means[0], atol=1e-4, rtol=1e-4)
    if shift is None:
        assert means[0].std() > 0.1
    else:
        expected = torch.tensor(shift, dtype=torch.float32).view(1, 3, 1, 1, 1)
        torch.testing.assert_close(means[1], expected.expand_as(means[1]), atol=1e-3, rtol=0)


@pytest.mark.parametrize("planes", [False, True])
def test_search_has_the_right_gradient(planes: bool) -> None:
    search = DisplacementSearch(3, 1, 1, planes).double()
    fixed, moving = torch.randn(2, 1, 2, 3, 4, 3, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: search(a, b)[0], (fixed, moving), fast_mode=True)


def test_settings_of_the_network() -> None:
    images = torch.rand(2, 1, 1, 14, 12, 10)
    for settings in ({"planes": True}, {"reach": 1, "step": 2}):
        network = NETWORKS["pdd"](3, 1, 6, [4, 8], **settings)
        assert network(*images).shape == (1, 6, 7, 6, 5)
