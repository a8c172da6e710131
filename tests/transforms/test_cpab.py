"""Continuous piecewise-affine velocities: the tessellation, and integration against closed forms."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.integrate
import scipy.linalg
import torch

from atlasmith.transforms import FORWARD, INVERSE, deformation_model
from atlasmith.transforms.cpab import Axis, interpolate

DOUBLE = torch.zeros((), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(9, 7), (7, 5, 9)], ids=str)
def test_velocities_are_linear_in_the_simplices_of_a_box(shape: tuple[int, ...]) -> None:
    """Barycentric coordinates in the simplex whose corners are reached axis by axis, in the order of the
    fractions."""
    ndim, cell = len(shape), 2
    axes = [Axis.of(n, float(cell), DOUBLE) for n in shape]
    values = torch.randn(1, 1, *[axis.hats.shape[1] for axis in axes], dtype=torch.float64)
    found = interpolate(values, axes)[0, 0]
    for index in itertools.product(*map(range, shape)):
        vertex = np.minimum(np.array(index) // cell, np.array(values.shape[2:]) - 2)
        fraction = np.array(index) / cell - vertex
        corners = [vertex.copy()]
        for axis in np.argsort(-fraction, kind="stable"):
            vertex[axis] += 1
            corners.append(vertex.copy())
        points = np.vstack([np.array(corners).T * cell, np.ones(ndim + 1)])
        weights = np.linalg.solve(points, [*index, 1.0])
        expected = sum(w * values[0, 0, *corner] for w, corner in zip(weights, corners, strict=True))
        assert weights.min() > -1e-9 and float(found[index] - expected) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("n", "size", "vertices"), [(13, 6.0, [0, 6, 12]), (8, 3.0, [0, 4, 7]), (1, 6.0, [0])]
)
def test_vertices_are_voxels(n: int, size: float, vertices: list[int]) -> None:
    axis = Axis.of(n, size, DOUBLE)
    assert axis.vertices.argmax(dim=1).tolist() == vertices
    torch.testing.assert_close(axis.fitting @ axis.hats, torch.eye(len(vertices), dtype=torch.float64))
    torch.testing.assert_close(axis.hats.sum(1), torch.ones(n, dtype=torch.float64))


def test_affine_velocities_are_kept() -> None:
    model = deformation_model("cpab")
    x, y = torch.meshgrid(torch.arange(20.0), torch.arange(15.0), indexing="ij")
    field = torch.stack([0.1 * x - 0.2 * y + 1, 0.3 * x + 0.05 * y - 2])[None]
    torch.testing.assert_close(model.tangent(field, (1.0, 1.7)), field, atol=1e-4, rtol=1e-4)


def test_integration_in_a_cell_is_the_exponential_of_a_matrix() -> None:
    """Points that stay within their triangle."""
    model = deformation_model("cpab", {"cells": 12.0}, integration_steps=10)
    values = torch.randn(1, 2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    axes = [Axis.of(25, 12.0, DOUBLE) for _ in range(2)]
    velocity = interpolate(values, axes)
    coefficients = model.lift(velocity, (1.0, 1.0))
    torch.testing.assert_close(model.tangent(coefficients, (1.0, 1.0)), velocity)
    maps = model.maps(coefficients, (1.0, 1.0))
    for corners, point in (([(0, 0), (1, 0), (1, 1)], (8, 4)), ([(1, 1), (1, 2), (2, 2)], (16, 20))):
        vertices = np.vstack([12.0 * np.array(corners).T, np.ones(3)])
        speeds = np.array([values[0, :, *corner].numpy() for corner in corners]).T
        matrix = np.vstack([speeds @ np.linalg.inv(vertices), np.zeros(3)])  # homogeneous
        for direction in (FORWARD, INVERSE):
            expected = (scipy.linalg.expm(direction * matrix) @ [*point, 1])[:2] - point
            np.testing.assert_allclose(maps[direction][0, :, *point], expected, atol=2e-3)


def test_integration_across_cells() -> None:
    """Paths along an axis through several cells, against a solver of differential equations."""
    model = deformation_model("cpab", {"cells": 8.0}, integration_steps=10)
    knots, speeds = np.arange(0, 49, 8.0), np.array([0.0, 4.0, 8.0, 3.0, 6.0, 1.0, 0.0])
    velocity = torch.zeros(1, 2, 49, 5, dtype=torch.float64)
    velocity[0, 0] = torch.from_numpy(np.interp(np.arange(49), knots, speeds))[:, None]
    found = model.maps(model.lift(velocity, (1.0, 1.0)), (1.0, 1.0), [FORWARD])[FORWARD][0, 0, :, 2]
    solution = scipy.integrate.solve_ivp(
        lambda _, x: np.interp(x, knots, speeds), (0, 1), np.arange(49.0), rtol=1e-8, atol=1e-8
    )
    np.testing.assert_allclose(found.numpy(), solution.y[:, -1] - np.arange(49), atol=0.06)
