"""The search for a rigid and an affine transform from many starts."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from phantom import assert_close, centered_grid, head, normalized, pose, slab, transformed, world
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


@pytest.mark.parametrize("axis", [(1, 0, 0), (0, 1, 0), (0, 0, 1)])
@pytest.mark.parametrize("degrees", [90, 180])
def test_a_header_that_is_wrong_by_a_turn(axis: tuple[int, int, int], degrees: int) -> None:
    planted = np.eye(4)
    planted[:3, :3] = Rotation.from_rotvec(np.deg2rad(degrees) * np.array(axis)).as_matrix()
    grid = centered_grid((44, 44, 44))
    points = world(grid)
    fixed, moving = (Image(function(points), grid) for function in (head, transformed(head, planted)))
    assert_close(align(fixed, moving), planted, points[head(points) > 0.3], 0.5)


@pytest.mark.parametrize("seed", range(4))
def test_a_nearly_symmetric_object_keeps_its_pose(seed: int) -> None:
    """Turned by half a turn it matches as well, but for noise: the header decides."""
    grid = centered_grid((44, 44, 1))
    x, y, _ = np.moveaxis(world(grid), -1, 0)
    ring = np.exp(-((np.hypot(x / 14, y / 9) - 1) ** 2) / 0.1)
    random = np.random.default_rng(seed)
    fixed, moving = (Image(ring + 0.15 * random.normal(size=ring.shape), grid) for _ in range(2))
    assert np.abs(align(fixed, moving)[:2, :2] - np.eye(2)).max() < 0.5


@pytest.mark.parametrize(("slices", "engine"), [(2, "torch"), (3, "torch"), (5, "torch"), (3, "simpleitk")])
def test_thin_slabs(slices: int, engine: str) -> None:
    """A recursive Gaussian needs four voxels along each axis."""
    grid = centered_grid((40, 40, slices))
    grid.affine[2] *= 4
    points = world(grid)
    planted = pose(offset=(4.5, -3, 0))
    fixed, moving = (Image(function(points), grid) for function in (slab, transformed(slab, planted)))
    found = align(fixed, moving, engine=engine)
    assert np.abs((found - planted)[:2, :] @ [8, 8, 0, 1]).max() < 0.3


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
    sets = [search.rotations(ndim, angles) for angles in (search.ANGLES, search.TURNS)]
    assert [len(matrices) for matrices in sets] == {2: [6, 5], 3: [78, 65]}[ndim]
    matrices = [matrix[:3, :3] for matrix in itertools.chain(*sets)]
    for matrix in matrices:
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)
        assert min(np.abs(matrix.T - other).max() for other in matrices) < 1e-12
    apart = [np.abs(a - b).max() for a, b in itertools.combinations(matrices, 2)]
    assert min(apart) > 0.05
