"""Velocities that change in time, against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from atlasmith.core.fields import compose, exponentiate
from atlasmith.core.sampling import coordinates
from atlasmith.transforms import FORWARD, INVERSE, deformation_model

SHAPE, SPACING = (33, 33), (1.0, 1.0)
TURN, STRETCH = np.array([[0.0, -0.8], [0.8, 0.0]]), np.array([[0.5, 0.0], [0.0, -0.5]])


def linear(matrix: np.ndarray) -> Tensor:
    """The velocity (1, 2, *SHAPE) of a matrix, around the center."""
    points = coordinates(SHAPE, torch.zeros((), dtype=torch.float64)) - 16
    return torch.einsum("ij,bjxy->bixy", torch.from_numpy(matrix), points)


def error(displacement: Tensor, matrix: np.ndarray) -> float:
    """Largest error near the center, where no path leaves the image."""
    difference = displacement - linear(matrix - np.eye(2))
    return float(difference[..., 12:21, 12:21].abs().max())


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("midpoint", 2)])
def test_order_of_convergence(solver: str, order: int) -> None:
    coefficients = torch.cat([linear(TURN), linear(STRETCH)], dim=1)
    first, second = (scipy.linalg.expm(matrix / 2) for matrix in (TURN, STRETCH))
    expected, errors = {FORWARD: second @ first, INVERSE: np.linalg.inv(second @ first)}, []
    for steps in (2, 4, 8):
        settings = {"times": 2, "steps": steps, "solver": solver}
        maps = deformation_model("time_dependent_velocity", settings).maps(coefficients, SPACING)
        errors.append([error(maps[direction], matrix) for direction, matrix in expected.items()])
    ratios = np.array(errors[:-1]) / errors[1:]
    assert np.allclose(ratios, 2**order, rtol=0.3)
    assert max(errors[-1]) < (0.5 if order == 1 else 0.02)


def test_a_velocity_constant_in_time_is_stationary() -> None:
    model = deformation_model("time_dependent_velocity", {"times": 3, "steps": 6})
    velocity = linear(0.3 * TURN + 0.2 * STRETCH)
    found = model.maps(model.lift(velocity, SPACING), SPACING, [FORWARD])[FORWARD]
    expected = exponentiate(velocity, 12)
    assert float((found - expected)[..., 8:25, 8:25].abs().max()) < 5e-3


def test_velocities_are_composed_and_not_added() -> None:
    """A shift before a turn isn't a shift after it."""
    model = deformation_model("time_dependent_velocity", {"times": 2, "steps": 10})
    shift = torch.zeros_like(linear(TURN))
    shift[:, 0] = 4
    turn, displacement = linear(scipy.linalg.expm(TURN / 2) - np.eye(2)), shift / 2
    for fields, expected in (
        ([shift, linear(TURN)], compose(turn, displacement)),
        ([linear(TURN), shift], compose(displacement, turn)),
    ):
        found = model.maps(torch.cat(fields, dim=1), SPACING, [FORWARD])[FORWARD]
        torch.testing.assert_close(found[..., 12:21, 12:21], expected[..., 12:21, 12:21], atol=0.01, rtol=0)


def test_a_composition_runs_through_the_inner_map_first() -> None:
    model = deformation_model("time_dependent_velocity", {"times": 2, "steps": 10})
    inner, outer = (model.lift(linear(matrix), SPACING) for matrix in (0.5 * TURN, 0.5 * STRETCH))
    expected = scipy.linalg.expm(0.5 * STRETCH) @ scipy.linalg.expm(0.5 * TURN)
    found = model.maps(model.compose(outer, inner, SPACING), SPACING, [FORWARD])[FORWARD]
    assert error(found, expected) < 0.01
