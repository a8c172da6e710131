"""The similarity of two images in physical coordinates."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from phantom import centered_grid, head, normalized, pose

from atlasmith.affine import working_image
from atlasmith.affine.working_image import WorkingImage, itk_pull_back, similarities
from atlasmith.core.grid import Array
from atlasmith.io.images import Image

SHAPES = [(36, 40, 34), (52, 56, 1)]
POSES = [pose((3, 1, 0), (1, 1, 1.1), (offset, 1, 0)) for offset in (0, 6, 12)]


def images(shape: tuple[int, int, int]) -> list[WorkingImage]:
    """Two heads, one in a field of view that holds a part of it."""
    part = (shape[0] // 2, *shape[1:])
    return [WorkingImage.from_image(normalized(head, centered_grid(s)), 1) for s in (shape, part)]


def by_itk(fixed: WorkingImage, moving: WorkingImage, matrix: Array) -> float:
    """Compute 1 + NCC over the overlap, reduced where that is small, by SimpleITK's resampling."""
    pull_back = itk_pull_back(matrix, fixed.itk.GetDimension())
    moved = sitk.GetArrayFromImage(sitk.Resample(moving.itk, fixed.itk, pull_back, sitk.sitkLinear, np.nan))
    target = sitk.GetArrayFromImage(fixed.itk)
    seen = np.isfinite(moved)
    overlap = np.mean(seen[target > 0]) / min(1, moving.itk.GetNumberOfPixels() / (target > 0).sum())
    return float((1 + np.corrcoef(target[seen], moved[seen])[0, 1]) * min(1, overlap / 0.8))


@pytest.mark.parametrize("shape", SHAPES)
def test_similarity_is_that_of_images_resampled_by_itk(
    shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(working_image, "COMPARED", 10**9)
    fixed, moving = images(shape)
    found = similarities(fixed, moving, POSES)
    np.testing.assert_allclose(found, [by_itk(fixed, moving, matrix) for matrix in POSES], atol=1e-4)
    assert found[0] > found[2] + 0.1


@pytest.mark.parametrize("shape", SHAPES)
def test_similarity_at_some_voxels_is_close_to_that_at_all(
    shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    fixed, moving = images(shape)
    monkeypatch.setattr(working_image, "COMPARED", 10**9)
    at_all = similarities(fixed, moving, POSES)
    monkeypatch.setattr(working_image, "COMPARED", fixed.itk.GetNumberOfPixels() // 2)
    at_some = similarities(fixed, moving, POSES)
    assert (at_some != at_all).all()
    np.testing.assert_allclose(at_some, at_all, atol=0.02)


@pytest.mark.parametrize(
    "shape", [(128, 128, 128), (256, 256, 176), (512, 512, 100), (200, 200, 128), (181, 217, 181), (208, 176)]
)
@pytest.mark.parametrize("count", [5000, 2**15])
def test_voxels_are_spread_evenly(shape: tuple[int, ...], count: int) -> None:
    """No block of a grid goes without: in memory, every n-th voxel of these lies on few planes."""
    index = working_image.evenly_spread(shape, count)
    assert 0.7 * count < len(index[0]) <= count
    blocks = [axis * 6 // n for axis, n in zip(index, shape, strict=True)]
    number = np.unique(np.stack(blocks), axis=1, return_counts=True)[1]
    expected = len(index[0]) / 6 ** len(shape)
    assert len(number) == 6 ** len(shape)
    assert number.min() > 0.5 * expected and number.max() < 1.6 * expected


def test_a_small_object_in_a_large_image_is_seen() -> None:
    """With zeros around it: voxels that lie on few planes would all be background."""
    grid = centered_grid((128, 128, 128))
    image = np.zeros(grid.shape, np.float32)
    image[52:76, 55:73, 50:78] = np.linspace(0.5, 1, 28, dtype=np.float32)
    fixed = WorkingImage.from_image(Image(image, grid), 1)
    found = similarities(fixed, fixed, [np.eye(4), pose((0, 0, 0), (1, 1, 1), (3, 0, 0))])
    assert found[0] == pytest.approx(2, abs=1e-3) and 1 < found[1] < 1.95
