"""B-splines as velocities and displacements: what the projection keeps, and where control points lie."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from atlasmith.core.bsplines import basis_matrix, spread, uniform_knots
from atlasmith.transforms import FORWARD, deformation_model
from atlasmith.transforms.bspline import BSplines, knots_by_ratio

DOUBLE = torch.zeros((), dtype=torch.float64)


@pytest.mark.parametrize("ratio", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("name", ["bspline_velocity", "bspline_displacement"])
def test_the_projection_is_least_squares(name: str, ratio: float) -> None:
    shape, spacing = (16, 13), (1.0, 1.5)
    model = deformation_model(name, {"control_points": 4.5, "border_ratio": ratio})
    field = torch.randn(1, 2, *shape, dtype=torch.float64)
    bases = [
        basis_matrix(n, knots_by_ratio(n, 4.5 / size, ratio, DOUBLE), DOUBLE)
        for n, size in zip(shape, spacing, strict=True)
    ]
    design = np.kron(bases[0].numpy(), bases[1].numpy())
    values = field[0].flatten(1).numpy().T
    expected = design @ np.linalg.lstsq(design, values, rcond=None)[0]
    found = model.tangent(field, spacing)[0].flatten(1).numpy().T
    np.testing.assert_allclose(found, expected, atol=1e-6)
    control = torch.randn(1, 2, *[basis.shape[1] for basis in bases], dtype=torch.float64)
    splines = spread(control, bases)
    torch.testing.assert_close(model.tangent(splines, spacing), splines, atol=1e-6, rtol=0)


def test_a_spline_displacement_is_that_of_its_control_points() -> None:
    model = deformation_model("bspline_displacement", {"control_points": 3.0})
    bases = [basis_matrix(n, 3.0, torch.zeros(())) for n in (12, 15)]
    displacement = spread(torch.randn(1, 2, *[basis.shape[1] for basis in bases]), bases)
    found = model.maps(displacement, (2.0, 2.0), [FORWARD])[FORWARD]
    torch.testing.assert_close(found, displacement, atol=1e-4, rtol=0)


def test_cubic_polynomials_are_kept() -> None:
    x, y = torch.meshgrid(torch.linspace(-1, 1, 20), torch.linspace(-1, 1, 17), indexing="ij")
    field = torch.stack([x**3 + x * y**2, y**3 - 0.5])[None]
    for ratio in (1.0, 2.0):
        model = deformation_model("bspline_velocity", {"border_ratio": ratio})
        torch.testing.assert_close(model.tangent(field, (1.0, 1.0)), field, atol=1e-4, rtol=0)


@pytest.mark.parametrize("ratio", [0.25, 1.0, 4.0])
def test_knots_by_ratio(ratio: float) -> None:
    n, distance = 401, 2.0
    knots, uniform = knots_by_ratio(n, distance, ratio, DOUBLE), uniform_knots(n, distance, DOUBLE)
    if ratio == 1:
        torch.testing.assert_close(knots, uniform)
    torch.testing.assert_close(knots[[0, -1]], uniform[[0, -1]])
    torch.testing.assert_close(knots + knots.flip(0), torch.full_like(knots, n - 1))
    gaps = knots.diff()
    assert (gaps > 0).all() and gaps[0] / gaps[len(gaps) // 2] == pytest.approx(ratio, rel=0.04)


def test_control_points_have_one_distance_in_mm() -> None:
    """On voxels of four times the size there is a control point for each voxel."""
    model = deformation_model("bspline_velocity", {"control_points": 4.0})
    assert isinstance(model, BSplines)
    fine, coarse = model.projections((33, 9), (1.0, 4.0), DOUBLE)
    assert fine.trace().item() == pytest.approx(8 + 3, abs=1e-4)  # an interval every 4 of 32 voxels
    torch.testing.assert_close(coarse, torch.eye(9, dtype=torch.float64))
