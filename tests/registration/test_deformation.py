"""Metrics of a deformation, against closed forms and NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from atlasmith.core.fields import resize_displacement
from atlasmith.core.grid import Grid
from atlasmith.core.sampling import half_shape
from atlasmith.core.world import transform_points, world_points
from atlasmith.registration.deformation import Deformation, quantile


@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.99, 1.0])
@pytest.mark.parametrize("count", [1, 2, 7, 1000, 1001])
def test_quantile_is_that_of_numpy(count: int, fraction: float) -> None:
    values = np.random.default_rng(count).normal(size=count).astype(np.float32).round(1)  # with ties
    found = quantile(torch.from_numpy(values), fraction)
    assert float(found) == pytest.approx(np.quantile(values.astype(float), fraction), abs=1e-6)


def test_quantile_of_more_values_than_torch_quantile_takes() -> None:
    """Of 0 to n - 1 it is the rank itself."""
    values = torch.arange(2**24 + 2, dtype=torch.int32)
    with pytest.raises(RuntimeError, match="too large"):
        torch.quantile(values.float(), 0.99)
    found = quantile(values.flip(0).double(), 0.99)
    assert float(found) == pytest.approx(0.99 * (2**24 + 1), abs=0.01)


def test_metrics_of_a_scaling() -> None:
    """u = 0.25 (x - c) has the Jacobian determinant 1.25^2, and its inverse is -0.2 (x - c)."""
    size, center = 33, 16.0
    offset = torch.stack(torch.meshgrid(*[torch.arange(float(size)) - center] * 2, indexing="ij"))[None]
    grid = Grid((size, size, 1), np.diag([2.0, 3.0, 1.0, 1.0]))
    fixed = (offset.norm(dim=1, keepdim=True) < 8).float()
    deformation = Deformation(0.25 * offset, -0.2 * offset, np.eye(4), grid)
    found = {name: (value, unit) for name, value, unit in deformation.metrics(fixed)}
    inside = fixed[0, 0] > 0
    lengths = (0.25 * offset[0] * torch.tensor([2.0, 3.0]).view(2, 1, 1)).norm(dim=0)[inside]
    expected = {
        "nonpositive_jacobian_percent": (0.0, "%"),
        "sd_log_jacobian": (0.0, "1"),
        "inverse_consistency_mm": (0.0, "mm"),
        "displacement_mm": (float(lengths.mean()), "mm"),
    }
    assert {name: unit for name, (_, unit) in found.items()} == {n: u for n, (_, u) in expected.items()}
    for name, (value, _) in expected.items():
        assert found[name][0] == pytest.approx(value, abs=1e-5), name
    assert deformation.log_jacobian == pytest.approx(np.full((size, size, 1), 2 * np.log(1.25)), abs=1e-5)


@pytest.mark.parametrize("shape", [(17, 12, 1), (16, 11, 9), (12, 9, 2)])
def test_half_the_resolution_gives_the_same_deformation(shape: tuple[int, int, int]) -> None:
    """In all that is written, within the field of view."""
    random = np.random.default_rng(0)
    grid = Grid(shape, np.diag([2.0, 1.0, 3.0, 1.0]))
    half = half_shape(grid.tensor_shape)
    forward, inverse = torch.from_numpy(random.normal(size=(2, 1, grid.ndim, *half))).float() * 0.3
    full = (resize_displacement(x, grid.tensor_shape) for x in (forward, inverse))
    affine = np.eye(4)
    affine[:3, 3] = 1.5, -2.0, 0.5
    coarse, fine = Deformation(forward, inverse, affine, grid), Deformation(*full, affine, grid)
    points = world_points(grid)
    for steps in ("forward_steps", "inverse_steps"):
        inside = points if steps == "forward_steps" else transform_points([affine], points)
        found, expected = (transform_points(getattr(x, steps), inside) for x in (coarse, fine))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    np.testing.assert_allclose(coarse.log_jacobian, fine.log_jacobian, atol=1e-5)
    fixed = torch.ones(1, 1, *grid.tensor_shape)
    for (_, found_value, _), (_, value, _) in zip(coarse.metrics(fixed), fine.metrics(fixed), strict=True):
        assert found_value == pytest.approx(value, abs=1e-4)
