"""Thin-plate splines."""

from __future__ import annotations

import pytest
import torch
from scipy.interpolate import RBFInterpolator

from atlasmith.core.thin_plates import thin_plate_spline

DIMENSIONS = pytest.mark.parametrize("ndim", [2, 3], ids=["2d", "3d"])


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@DIMENSIONS
def test_they_are_those_of_scipy(ndim: int) -> None:
    """Which relaxes likewise, in the units of the points, here of spread 1."""
    points, values, targets = random(1, 30, ndim), random(1, 30, 2, seed=1), random(50, ndim, seed=2)
    points = points - points.mean(1, keepdim=True)
    points = points / points.square().sum(2).mean().sqrt()
    kernel = {2: "thin_plate_spline", 3: "linear"}[ndim]
    for relaxation in (0.0, 0.3):
        expected = RBFInterpolator(
            points[0].numpy(), values[0].numpy(), smoothing=relaxation, kernel=kernel, degree=1
        )
        found = thin_plate_spline(points, values, targets, relaxation=relaxation)
        torch.testing.assert_close(found[0], torch.from_numpy(expected(targets.numpy())), atol=1e-6, rtol=0)


@DIMENSIONS
def test_they_interpolate_their_points_and_extrapolate_affine_values(ndim: int) -> None:
    points, values = 50 * random(2, 40, ndim), random(2, 40, 3, seed=1)
    matrix = random(ndim, 3, seed=2)
    far = 200 * random(10, ndim, seed=3)
    for each in range(2):
        found = thin_plate_spline(points, values, points[each])[each]
        torch.testing.assert_close(found, values[each], atol=1e-7, rtol=0)
    torch.testing.assert_close(thin_plate_spline(points, points @ matrix, far)[0], far @ matrix)


@DIMENSIONS
def test_points_that_do_not_count_do_not_matter(ndim: int) -> None:
    points, values, targets = random(2, 20, ndim), random(2, 20, 2, seed=1), random(9, ndim, seed=2)
    present = torch.ones(2, 20, dtype=torch.float64)
    present[:, 15:] = 0
    expected = thin_plate_spline(points[:, :15], values[:, :15], targets)
    found = thin_plate_spline(points, values, targets, present)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    nothing = thin_plate_spline(points, values, targets, torch.zeros_like(present))
    assert nothing.abs().max() < 1e-9


def test_points_in_a_plane_leave_no_slope_across_it() -> None:
    points = random(1, 20, 3)
    points[..., 2] = 1.0
    above = torch.tensor([[0.5, 0.5, 1.0], [0.5, 0.5, 1.5]], dtype=torch.float64)
    found = thin_plate_spline(points, points[..., :1], above)
    torch.testing.assert_close(found[0, :, 0], torch.full((2,), 0.5, dtype=torch.float64), atol=1e-4, rtol=0)
