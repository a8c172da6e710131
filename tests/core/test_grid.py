"""Sampling grids."""

import numpy as np
import pytest

from atlasmith.core.grid import Grid

OBLIQUE = np.array([[-1.9, 0.3, 0.1, 12.0], [0.2, 2.4, -0.5, -7.0], [0.1, 0.4, 3.1, 30.0], [0, 0, 0, 1]])


def world(grid: Grid, index: list[float]) -> np.ndarray:
    return (grid.affine @ [*index, 1])[:3]


def test_cropping_keeps_the_position_of_voxels() -> None:
    grid = Grid((9, 8, 7), OBLIQUE)
    cropped = grid.cropped([slice(2, 6), slice(1, 8), slice(3, 5)])
    assert cropped.shape == (4, 7, 2)
    np.testing.assert_allclose(world(cropped, [0, 0, 0]), world(grid, [2, 1, 3]))
    np.testing.assert_allclose(world(cropped, [3, 6, 1]), world(grid, [5, 7, 4]))


def test_resampling_keeps_the_field_of_view() -> None:
    grid = Grid((40, 30, 20), OBLIQUE)
    coarse = grid.resampled(5.0)
    assert all(a < b for a, b in zip(coarse.shape, grid.shape, strict=True))
    corner = [-0.5, -0.5, -0.5]
    np.testing.assert_allclose(world(coarse, corner), world(grid, corner))
    np.testing.assert_allclose(
        world(coarse, [n - 0.5 for n in coarse.shape]), world(grid, [n - 0.5 for n in grid.shape])
    )


def test_resampling_never_refines() -> None:
    assert Grid((10, 10, 10), np.eye(4)).resampled(0.5).shape == (10, 10, 10)


@pytest.mark.parametrize(
    ("shape", "axes"), [((5, 6, 7), (0, 1, 2)), ((5, 6, 1), (0, 1)), ((5, 1, 7), (0, 2)), ((5, 1, 1), (0, 1))]
)
def test_two_dimensional_grids_drop_one_axis(shape: tuple[int, int, int], axes: tuple[int, ...]) -> None:
    grid = Grid(shape, np.eye(4))
    assert grid.axes == axes
    data = np.arange(np.prod(shape)).reshape(shape)
    np.testing.assert_array_equal(grid.unsqueeze(grid.squeeze(data)), data)


def test_same_as_tolerates_a_small_part_of_a_voxel() -> None:
    grid = Grid((5, 6, 7), OBLIQUE)
    shifted = OBLIQUE.copy()
    shifted[0, 3] += 4e-5
    assert grid.same_as(Grid((5, 6, 7), shifted))
    shifted[0, 3] += 0.1
    assert not grid.same_as(Grid((5, 6, 7), shifted))
    assert not grid.same_as(Grid((5, 6, 8), OBLIQUE))
