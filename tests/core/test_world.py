"""Transforms between worlds."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy.linalg import expm
from scipy.ndimage import gaussian_filter
from smooth import smooth_field

from atlasmith.core import sampling
from atlasmith.core.grid import Array, DisplacementField, Grid, Step
from atlasmith.core.label_sampling import LabelSampler
from atlasmith.core.world import (
    displacement_to_field,
    resample,
    resample_labels,
    resampling_coordinates,
    transform_points,
    transform_points_each,
    world_points,
)
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


def steps_of(grid: Grid, seed: int) -> tuple[Array, DisplacementField, Array]:
    """A random affine, a field on `grid`, and another affine."""
    random = np.random.default_rng(seed)
    first, last = np.eye(4), np.eye(4)
    for matrix in (first, last):
        matrix[:3] += 0.05 * random.normal(size=(3, 4))
    return first, displacement_to_field(smooth_field(grid.tensor_shape, 1.5, seed)[0], grid), last


@pytest.mark.parametrize("shape", [(9, 8, 7), (9, 8, 1)], ids=["3-D", "2-D"])
def test_transforms_of_the_same_points_are_those_of_each_alone(
    shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where some begin with a field on the grid of another, and others with an affine."""
    grid, other = Grid(shape, AFFINES["oblique"]), Grid(shape, AFFINES["LPS anisotropic"])
    points = world_points(grid)
    (a, field, b), (c, similar, _), (_, elsewhere, _) = (
        steps_of(own, seed) for seed, own in enumerate((grid, grid, other))
    )
    transforms: list[list[Step]] = [
        [field, b],
        [a, similar],
        [similar, c],
        [elsewhere],
        [],
        [a],
        [field, similar],
    ]
    expected = [transform_points(steps, points) for steps in transforms]
    monkeypatch.setattr(sampling, "CPU_POINTS", 50)
    for parts, whole in zip(transform_points_each(transforms, points), expected, strict=True):
        pieces = list(parts)
        assert [len(piece) for piece in pieces[:-1]] == [50] * (len(points) // 50)
        torch.testing.assert_close(torch.cat(pieces), whole, rtol=0, atol=1e-12)
    separately = [points]
    for steps in ([a], [similar]):
        separately.append(transform_points(steps, separately[-1]))
    torch.testing.assert_close(expected[1], separately[-1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(9, 8, 7), (9, 8, 1)], ids=["3-D", "2-D"])
def test_resampling_in_parts(shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    moving, fixed = Grid(shape, AFFINES["RAS"]), Grid(shape, AFFINES["LAS"])
    back = np.diag([1.0, 1, 1, 1])
    back[0, 3] = 7.6
    steps, random = [*steps_of(fixed, 4), back], np.random.default_rng(5)
    images = torch.from_numpy(random.normal(size=(1, 2, *moving.tensor_shape))).float()
    labels = random.integers(0, 4, shape)
    whole = resample(images, moving, steps, fixed), resample_labels(labels, moving, steps, fixed)
    points = resampling_coordinates(moving, steps, fixed)
    assert torch.equal(whole[1], LabelSampler(torch.from_numpy(moving.squeeze(labels)))(points))
    assert whole[0].shape == (1, 2, *fixed.tensor_shape) and whole[1].any()
    monkeypatch.setattr(sampling, "CPU_POINTS", 50)
    torch.testing.assert_close(resample(images, moving, steps, fixed), whole[0])
    assert torch.equal(resample_labels(labels, moving, steps, fixed), whole[1])


def test_no_points() -> None:
    grid = Grid((5, 6, 7), np.eye(4))
    first, field, last = steps_of(grid, 6)
    assert transform_points([first, field, last], torch.zeros(0, 3)).shape == (0, 3)
