"""The search for a rigid and an affine transform from many starts."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from phantom import assert_close, centered_grid, head, normalized, transformed, world
from scipy.spatial.transform import Rotation

from atlasmith.affine import align, search
from atlasmith.affine.engines import ENGINES, AffineEngine
from atlasmith.affine.working_image import WorkingImage
from atlasmith.core.grid import Array
from atlasmith.io.images import Image


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("seed", range(4))
def test_large_rotation_is_found(seed: int, engine: str) -> None:
    """45 degrees about any axis, beyond the capture range of an optimizer alone."""
    axis = np.random.default_rng(seed).normal(size=3)
    planted = np.eye(4)
    vector = np.deg2rad(45) * axis / np.linalg.norm(axis)
    planted[:3, :3] = Rotation.from_rotvec(vector).as_matrix()
    grid = centered_grid((44, 44, 44))
    points = world(grid)
    fixed = Image(head(points), grid)
    moving = Image(transformed(head, planted)(points), grid)
    assert_close(align(fixed, moving, engine=engine), planted, points[head(points) > 0.3], 0.5)


def test_a_good_alignment_is_optimized_once() -> None:
    grid = centered_grid((36, 40, 34))
    image = WorkingImage.from_image(normalized(head, grid), 1)
    optimized: list[Array] = []

    @AffineEngine.declare("Return the starts.")
    def engine(fixed: WorkingImage, moving: WorkingImage, starts: Sequence[Array], kind: str) -> list[Array]:
        optimized.extend(starts)
        return list(starts)

    np.testing.assert_array_equal(search.register_rigid(image, image, [np.eye(4)], engine), np.eye(4))
    assert len(optimized) == 1


@pytest.mark.parametrize("ndim", [2, 3])
def test_every_rotation_has_its_inverse(ndim: int) -> None:
    matrices = [matrix[:3, :3] for matrix in search.rotations(ndim)]
    assert len(matrices) == {2: 6, 3: 78}[ndim]
    for matrix in matrices:
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)
        assert min(np.abs(matrix.T - other).max() for other in matrices) < 1e-12
    apart = [np.abs(a - b).max() for a, b in itertools.combinations(matrices, 2)]
    assert min(apart) > 0.05
