"""The objective of the Gauss-Newton engine and its derivative."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from phantom import PART, TEMPLATE, centered_grid, head, normalized, pose, world
from scipy.ndimage import gaussian_filter
from torch import Tensor

from atlasmith.affine import gauss_newton
from atlasmith.affine.working_image import WorkingImage, largest_overlap, similarity, translation
from atlasmith.io.images import Image


def objective_of(fixed: WorkingImage, moving: WorkingImage) -> tuple[gauss_newton._Objective, Tensor]:
    """Return the objective, and the generators of its transforms."""
    generators = gauss_newton._generators("affine", fixed.grid.ndim, 10)
    points, values = gauss_newton._samples(fixed.itk, 1, 10**9)
    image = gauss_newton._MovingImage(moving.itk)
    overlap = largest_overlap(fixed, moving)
    return gauss_newton._Objective(values, points, image, generators, overlap), generators


@pytest.mark.parametrize("shape", [(40, 44, 38), (52, 56, 1)])
def test_gradient_is_that_of_the_objective(shape: tuple[int, int, int]) -> None:
    grid = centered_grid(shape)
    wide = centered_grid(tuple(n + 12 if n > 1 else 1 for n in shape))  # type: ignore[arg-type]
    sigmas = np.minimum(shape, 3) - 1
    fixed, moving = (
        WorkingImage.from_image(
            Image(gaussian_filter(head(world(g) / 1.4), sigmas).astype(np.float32), g), spacing=1
        )
        for g in (grid, wide)
    )
    objective, generators = objective_of(fixed, moving)
    start = translation(moving.fov_center - fixed.fov_center + [1.3, -0.6, 0])
    start[0, 1] = 0.05
    matrix = gauss_newton._homogeneous(start, generators.shape[1] - 1)[None]
    steps = 0.05 * generators
    ahead, behind = (
        torch.cat([objective(matrix @ torch.linalg.matrix_exp(sign * step)[None])[0] for step in steps])
        for sign in (1, -1)
    )
    gradient = objective(matrix)[2][0]
    assert float(gradient.norm()) > 0.01
    torch.testing.assert_close(
        gradient, ((ahead - behind) / 0.1).double(), rtol=0.05, atol=0.05 * float(gradient.norm())
    )


def test_objective_is_the_similarity_of_the_search() -> None:
    """Also where the image holds a part of the object only, so that the overlap counts."""
    fixed, moving = (WorkingImage.from_image(normalized(head, g), 1) for g in (TEMPLATE, PART))
    objective, _ = objective_of(fixed, moving)
    for offset in (0, 6, 30):
        matrix = pose((3, 1, 0), (1, 1, 1.1), (offset, 1, 0))
        assert float(objective(torch.from_numpy(matrix)[None])[0]) == pytest.approx(
            similarity(fixed, moving, matrix), abs=2e-3
        )
