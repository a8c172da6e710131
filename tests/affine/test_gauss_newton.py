"""The objective of the Gauss-Newton engine and its derivative."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from phantom import PART, TEMPLATE, centered_grid, head, normalized, pose, world
from scipy.ndimage import gaussian_filter
from torch import Tensor

from atlasmith.affine import gauss_newton, working_image
from atlasmith.affine.working_image import WorkingImage, largest_overlap, similarity, translation
from atlasmith.core.grid import Array
from atlasmith.io.images import Image

RADIUS = 10  # mm, the unit of points


def objective_of(fixed: WorkingImage, moving: WorkingImage) -> tuple[gauss_newton._Objective, Tensor]:
    """Return the objective, and the generators of its transforms."""
    generators = gauss_newton._generators("affine", fixed.grid.ndim)
    points, values = gauss_newton._samples(gauss_newton._smooth(fixed.itk, 0), fixed.itk, 1, 10**9)
    image = gauss_newton._MovingImage(gauss_newton._smooth(moving.itk, 0), moving.itk)
    overlap = largest_overlap(fixed, moving)
    return gauss_newton._Objective(values, points / RADIUS, image, generators, overlap), generators


def of_units(matrix: Array, ndim: int) -> Tensor:
    """A pull-back (4, 4) as the objective takes it, of points in units of the radius."""
    unit = torch.diag(torch.tensor([RADIUS] * ndim + [1.0], dtype=torch.float64))
    return gauss_newton._homogeneous(matrix, ndim) @ unit


def smooth_pair(shape: tuple[int, int, int]) -> tuple[WorkingImage, WorkingImage, Array]:
    """A head and the same in a larger field of view, smoothed, and a start near the right transform."""
    grid = centered_grid(shape)
    wide = centered_grid(tuple(n + 12 if n > 1 else 1 for n in shape))  # type: ignore[arg-type]
    sigmas = np.minimum(shape, 3) - 1
    fixed, moving = (
        WorkingImage.from_image(
            Image(gaussian_filter(head(world(g) / 1.4), sigmas).astype(np.float32), g), spacing=1
        )
        for g in (grid, wide)
    )
    start = translation(moving.fov_center - fixed.fov_center + [1.3, -0.6, 0])
    start[0, 1] = 0.05
    return fixed, moving, start


SHAPES = [(40, 44, 38), (52, 56, 1)]


@pytest.mark.parametrize("shape", SHAPES)
def test_gradient_is_that_of_the_objective(shape: tuple[int, int, int]) -> None:
    fixed, moving, start = smooth_pair(shape)
    objective, generators = objective_of(fixed, moving)
    matrix = of_units(start, generators.shape[1] - 1)[None]
    steps = 0.005 * generators
    ahead, behind = (
        torch.cat([objective(matrix @ torch.linalg.matrix_exp(sign * step)[None])[0] for step in steps])
        for sign in (1, -1)
    )
    gradient = objective(matrix)[2][0]
    assert float(gradient.norm()) > 0.01
    torch.testing.assert_close(
        gradient, ((ahead - behind) / 0.01).double(), rtol=0.05, atol=0.05 * float(gradient.norm())
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_normal_matrix_is_that_of_the_standardized_image(shape: tuple[int, int, int]) -> None:
    """J^T J, with J the derivative of the moved image at zero mean and unit norm."""
    fixed, moving, start = smooth_pair(shape)
    objective, generators = objective_of(fixed, moving)
    ndim = generators.shape[1] - 1
    matrix = of_units(start, ndim)

    def sampled(step: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        moved = objective.points @ (matrix @ torch.linalg.matrix_exp(step)).mT
        return objective.moving.sample(moved[None, :, :ndim])

    inside = sampled(torch.zeros_like(matrix))[2][0]

    def standardized(step: Tensor) -> Tensor:
        values = sampled(step)[0][0, inside]
        return torch.nn.functional.normalize(values - values.mean(), dim=0)

    slopes = torch.stack(
        [(standardized(0.05 * g) - standardized(-0.05 * g)) / 0.1 for g in generators]
    ).double()
    normal = slopes @ slopes.mT
    found = objective(matrix[None])[1][0]
    torch.testing.assert_close(found, normal, rtol=0.05, atol=0.02 * float(normal.max()))


def test_objective_is_the_similarity_of_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the image holds a part of the object only, so that the overlap counts."""
    monkeypatch.setattr(working_image, "COMPARED", 10**9)
    fixed, moving = (WorkingImage.from_image(normalized(head, g), 1) for g in (TEMPLATE, PART))
    objective, _ = objective_of(fixed, moving)
    for offset in (0, 6, 30):
        matrix = pose((3, 1, 0), (1, 1, 1.1), (offset, 1, 0))
        assert float(objective(of_units(matrix, 3)[None])[0]) == pytest.approx(
            similarity(fixed, moving, matrix), abs=2e-3
        )


def test_motions_that_change_nothing_are_not_followed() -> None:
    """On a ramp all but its direction is free: nothing moves along it, however large the damping's share."""
    grid = centered_grid((40, 40, 40))
    ramp = (np.indices(grid.shape)[0] / 40 + 0.1).astype(np.float32)
    fixed = WorkingImage.from_image(Image(ramp, grid), 1)
    objective, generators = objective_of(fixed, fixed)
    start = of_units(translation(np.array([2.0, 1.0, 0.0])), 3)[None]
    normal = objective(start)[1]
    assert float(normal[0].diagonal().min()) >= 0
    found = gauss_newton._maximize(objective, start, generators, 20)
    assert float((found - start).abs().max()) < 0.05
