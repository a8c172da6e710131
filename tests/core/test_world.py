"""Transforms between worlds."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy.linalg import expm
from scipy.ndimage import gaussian_filter
from smooth import smooth_field

from atlasmith.core.grid import Grid
from atlasmith.core.world import displacement_to_field, resample, transform_points
from atlasmith.io.transforms import from_sitk, to_sitk, write_composite

AFFINES = {
    "RAS": np.diag([1.0, 1.0, 1.0, 1.0]),
    "LAS": np.diag([-1.0, 1.0, 1.0, 1.0]),
    "LPS anisotropic": np.diag([-1.2, -0.8, 2.0, 1.0]),
    "oblique": np.array([[0.9, -0.3, 0.1, 5], [0.35, 1.1, 0.2, -4], [-0.1, -0.2, 1.3, 2], [0, 0, 0, 1]]),
}


@pytest.mark.parametrize("name", AFFINES)
def test_resampling_equals_simpleitk_with_the_exported_composite(name: str, tmp_path: Path) -> None:
    moving = Grid((20, 18, 16), AFFINES[name])
    fixed_affine = np.diag([1.1, 1.0, 0.9, 1.0])
    fixed_affine[:3, 3] = moving.center - fixed_affine[:3, :3] @ [8, 8, 7.5]
    fixed = Grid((17, 17, 16), fixed_affine)
    data = gaussian_filter(np.random.default_rng(3).normal(size=moving.shape), 2).astype(np.float32)
    affine = np.eye(4)
    affine[:3, :3] = expm(0.05 * np.random.default_rng(4).normal(size=(3, 3)))
    affine[:3, 3] = moving.center - affine[:3, :3] @ moving.center + [0.5, -0.7, 0.3]
    steps = [displacement_to_field(smooth_field(fixed.shape, 1.5)[0], fixed), affine]
    write_composite(tmp_path / "x.h5", steps)

    ours = resample(torch.from_numpy(data)[None, None], moving, steps, fixed)[0, 0].numpy()
    itk = sitk.Resample(
        to_sitk(data, moving),
        to_sitk(np.zeros(fixed.shape, np.float32), fixed),
        sitk.ReadTransform(str(tmp_path / "x.h5")),
        sitk.sitkLinear,
        0.0,
    )
    # All voxels but those at the border of the image, where rounding decides.
    assert np.quantile(np.abs(ours - from_sitk(itk)), 0.999) < 1e-3 * np.ptp(data)


def test_field_is_zero_outside_and_in_the_plane_of_a_slice() -> None:
    grid = Grid((6, 1, 5), np.diag([2.0, 3.0, 1.0, 1.0]))
    field = displacement_to_field(torch.ones(2, 6, 5), grid)
    np.testing.assert_allclose(field.vectors[3, 0, 2], [2.0, 0.0, 1.0])
    points = torch.tensor([[4.0, 0.0, 2.0], [40.0, 0.0, 2.0]])
    torch.testing.assert_close(
        transform_points([field], points), torch.tensor([[6.0, 0.0, 3.0], [40.0, 0.0, 2.0]])
    )


def test_resampling_of_a_slice() -> None:
    grid = Grid((6, 7, 1), np.eye(4))
    image = torch.rand(1, 1, 6, 7)
    shift = np.eye(4)
    shift[0, 3] = 1
    moved = resample(image, grid, [shift], grid)
    torch.testing.assert_close(moved[0, 0, :-1], image[0, 0, 1:])


def test_steps_apply_from_first_to_last() -> None:
    scale, shift = np.diag([2.0, 2.0, 2.0, 1.0]), np.eye(4)
    shift[:3, 3] = 1
    point = torch.tensor([[1.0, 1.0, 1.0]])
    assert transform_points([scale, shift], point)[0, 0] == 3
    assert transform_points([shift, scale], point)[0, 0] == 4
