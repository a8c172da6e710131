"""Points and surfaces as terms of the objective, and registration of shapes by signed distances."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree
from skimage.measure import euler_number

from atlasmith import evaluate, propagate
from atlasmith.core.grid import Array, Grid
from atlasmith.core.labels import signed_distances
from atlasmith.core.world import transform_points
from atlasmith.io.images import Image, as_image
from atlasmith.optimization import OPTIMIZERS, PointSets
from atlasmith.registration import RegistrationResult, register
from atlasmith.transforms import FORWARD, INVERSE

EVERY = slice(None)


def test_distance_of_corresponding_points() -> None:
    """Against the distances by hand: on a grid of half the size, in voxels of 4 and 6 mm."""
    fixed = torch.tensor([[[2.0, 4.0], [6.0, 1.0]]])
    moving = torch.tensor([[[4.0, 4.0], [6.0, 3.0]]])
    shift = torch.zeros(1, 2, 5, 4)
    shift[:, 0] = 1.0  # 2 voxels of the points' grid
    sets = PointSets(fixed, moving, weight=0.5)
    value = sets.term({FORWARD: shift}, (4.0, 6.0), (9, 7), EVERY)
    assert value.item() == pytest.approx(0.5 * (0 + np.hypot(4, 6)) / 2)
    both = sets.term({FORWARD: shift, INVERSE: -shift}, (4.0, 6.0), (9, 7), EVERY)
    assert both.item() == pytest.approx(value.item())


def test_distance_of_surfaces_is_that_to_the_nearest_point() -> None:
    """Against a k-d tree, in both directions; the sets have different sizes."""
    random = np.random.default_rng(0)
    points = [random.uniform(0, 8, (2, n, 3)) for n in (30, 20)]
    spacing = (1.0, 2.0, 3.0)
    sets = PointSets(torch.from_numpy(points[0]), torch.from_numpy(points[1]), 1.0, corresponding=False)
    value = sets.term({FORWARD: torch.zeros(2, 3, 9, 9, 9).double()}, spacing, (9, 9, 9), EVERY)
    expected = []
    for first, second in zip(*points, strict=True):
        for here, there in ((first, second), (second, first)):
            expected.append(cKDTree(there * spacing).query(here * spacing)[0].mean())
    assert value.item() == pytest.approx(np.mean(expected))
    first = sets.term({FORWARD: torch.zeros(1, 3, 9, 9, 9).double()}, spacing, (9, 9, 9), slice(0, 1))
    assert first.item() == pytest.approx(np.mean(expected[:2]))


def disk(shape: Sequence[int] = (40, 36)) -> Array:
    """A disk without texture, within which only points know what moves."""
    x, y = np.indices(shape)
    return (np.hypot(x - 19.5, y - 17.5) < 14).astype(np.float32)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_points_within_a_flat_region_are_matched(name: str) -> None:
    """A rotation of points in a disk, whose images tell nothing of it."""
    angles = np.linspace(0, 2 * np.pi, 8, endpoint=False)
    fixed, moving = (
        np.stack([19.5 + 7 * np.cos(angles + turn), 17.5 + 7 * np.sin(angles + turn)], axis=1)
        for turn in (0, 0.4)
    )
    given: dict[str, Any] = {"steps": 24, "optimizer": name, "device": "cpu"}
    result = register(disk(), disk(), points=(fixed, moving), points_weight=1.0, **given)
    assert result.terms["points"] < 0.4 * 2 * 7 * np.sin(0.2)
    assert np.mean(distances(result, fixed, moving)) < 0.4 * 2 * 7 * np.sin(0.2)


def distances(result: RegistrationResult, fixed: Array, moving: Array) -> Array:
    """Distances (N), mm, of mapped points (N, d) of 2-D arrays from their corresponding ones."""
    first, second = (np.pad(x, ((0, 0), (0, 3 - x.shape[1]))) for x in (fixed, moving))
    found = transform_points(result.forward, torch.from_numpy(first)).numpy()
    return np.asarray(np.linalg.norm(found - second, axis=1))


def test_points_are_in_the_world_of_their_image() -> None:
    """The moving image is elsewhere, turned by 90 degrees; both grids are anisotropic."""
    turn = np.array([[0.0, -1, 0, 50], [1, 0, 0, -20], [0, 0, 1, 7], [0, 0, 0, 1]])
    grid = Grid((40, 36, 1), np.diag([1.5, 2.0, 1.0, 1.0]))
    fixed = Image(disk()[..., None], grid)
    moving = Image(disk()[..., None], Grid(grid.shape, turn @ grid.affine))
    points = np.array([[20.0, 35, 0], [35, 30, 0], [30, 45, 0]])
    moved = (points + [2.0, 1.0, 0.0]) @ turn[:3, :3].T + turn[:3, 3]
    before, after = (
        register(fixed, moving, affine=turn, steps=n, points=(points, moved), points_weight=1.0, device="cpu")
        for n in (0, 30)
    )
    assert before.terms["points"] == pytest.approx(np.hypot(2, 1), rel=1e-4)
    assert np.mean(distances(after, points, moved)) < 0.3 * np.hypot(2, 1)
    assert after.terms["points"] == pytest.approx(np.mean(distances(after, points, moved)), abs=0.15)


def test_surfaces_are_matched() -> None:
    angles = np.linspace(0, 2 * np.pi, 60)
    fixed, moving = (
        np.stack([19.5 + a * np.cos(angles[:n]), 17.5 + b * np.sin(angles[:n])], axis=1)
        for a, b, n in ((7, 7, 60), (9, 6, 50))
    )
    before, after = (
        register(disk(), disk(), steps=n, surfaces=(fixed, moving), points_weight=1.0, device="cpu")
        for n in (0, 30)
    )
    assert after.terms["surfaces"] < 0.5 * before.terms["surfaces"]


def test_numbers_of_points_that_cannot_correspond() -> None:
    with pytest.raises(ValueError, match="3 points can't correspond to 2"):
        register(disk(), disk(), points=(np.zeros((3, 2)), np.zeros((2, 2))), steps=1, device="cpu")


def test_signed_distances() -> None:
    """Of a half space, along the axis of larger voxels; labels don't mix."""
    labels = np.zeros((6, 5), int)
    labels[3:], labels[4:, 3:] = 4, 9
    maps = signed_distances(labels, (2.0, 1.0), reach_mm=8.0)
    assert set(maps) == {"4", "9"}
    np.testing.assert_allclose(maps["4"][:4, 0], 0.5 + np.array([-5.5, -3.5, -1.5, 0.5]) / 16)
    assert maps["9"].argmax() == labels.ravel().tolist().index(9)
    assert all(x.dtype == np.float32 and x.min() >= 0 and x.max() <= 1 for x in maps.values())


def bumpy_torus(ndim: int, size: int, lobes: int) -> Array:
    """A ring in 2-D, a torus in 3-D, whose radius and thickness vary around it."""
    axes = np.indices((size,) * ndim) - (size - 1) / 2
    angle, radius = np.arctan2(axes[1], axes[0]), np.hypot(axes[0], axes[1])
    ring = size * (0.26 + 0.03 * np.cos(lobes * angle))
    height = axes[2] if ndim == 3 else 0
    return (np.hypot(radius - ring, height) < size * (0.1 + 0.02 * np.sin(angle + lobes))).astype(int)


@pytest.mark.parametrize(
    ("ndim", "size"), [(2, 48), pytest.param(3, 36, marks=pytest.mark.slow)], ids=["ring", "torus"]
)
@pytest.mark.parametrize("name", ["coordinate_network", "neural_ode"])
def test_a_shape_keeps_its_topology(name: str, ndim: int, size: int) -> None:
    """As by NDF: a diffeomorphic flow from a template's signed distances to a shape's."""
    template, shape = bumpy_torus(ndim, size, 0), bumpy_torus(ndim, size, 3)
    spacing = (1.0,) * ndim
    fixed, moving = (signed_distances(labels, spacing, reach_mm=6.0) for labels in (shape, template))
    result = register(
        fixed,
        moving,
        normalize_intensities=False,
        similarity={"mse": {"weight": 50.0}},
        optimizer=name,
        steps=30,
        device="cpu",
    )
    grid = as_image(shape, spacing).grid
    moved = propagate([as_image(template, spacing)], [result.forward], grid).labels[0].reshape(shape.shape)

    def dice(labels: Array) -> float:
        return evaluate(labels, shape, spacing, metrics=["dice"])[0].value

    assert euler_number(template, 1) == euler_number(shape, 1) == euler_number(moved, 1) == 0
    assert dice(moved) > 0.94 > 0.85 > dice(template)
    assert result.metrics["nonpositive_jacobian_percent"] == 0
