"""Our transform files as SimpleITK reads and applies them, against numpy and scipy."""

from __future__ import annotations

import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

from atlasmith.core.errors import AtlasmithError
from atlasmith.core.grid import Array, DisplacementField, Grid, Step
from atlasmith.core.world import resample
from atlasmith.io.images import Image, read_image
from atlasmith.io.transforms import (
    LPS,
    from_sitk,
    itk_affine,
    read_affine,
    read_composite,
    to_sitk,
    write_affine,
    write_composite,
)


def header(name: str) -> Array:
    """Voxel to world of a file with that orientation."""
    affine = np.eye(4)
    rotation = Rotation.from_euler("xyz", [12, -20, 8], degrees=True).as_matrix()
    affine[:3, :3] = {
        "RAS": np.eye(3),
        "LAS": np.diag([-1, 1, 1]),
        "LPS": np.diag([-1, -1, 1]),
        "PIR": np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0]]),
        "oblique": rotation,
        "anisotropic": rotation @ np.diag([0.8, 1.5, 3.0]),
    }[name]
    affine[:3, 3] = -affine[:3, :3] @ [9, 10, 8] + [3, -5, 7]
    return affine


ORIENTATIONS = ["RAS", "LAS", "LPS", "PIR", "oblique", "anisotropic"]
SHAPE = (20, 22, 18)


def smooth(shape: tuple[int, ...], seed: int) -> Array:
    """Waves of a few voxels' length."""
    rng = np.random.default_rng(seed)
    index = np.indices(shape[:3])
    waves = [np.cos(np.tensordot(rng.uniform(0.1, 0.4, 3), index, 1) + rng.uniform(0, 6)) for _ in range(3)]
    return np.stack(waves, -1).astype(np.float32)


def steps_on(grid: Grid) -> list[Step]:
    """An affine, a field on `grid`, and another affine: their order matters."""
    first = np.eye(4)
    first[:3, :3] = Rotation.from_euler("z", 10, degrees=True).as_matrix() * 1.05
    first[:3, 3] = [1, -1, 0.5]
    last = np.eye(4)
    last[0, 1], last[:3, 3] = 0.1, [0.5, 0, -1]
    return [first, DisplacementField(grid, 1.5 * smooth(grid.shape, 1)), last]


def apply(steps: list[Step], points: Array) -> Array:
    """World points (N, 3), by definition of a step."""
    for step in steps:
        if isinstance(step, DisplacementField):
            voxels = (np.c_[points, np.ones(len(points))] @ np.linalg.inv(step.grid.affine).T)[:, :3]
            vectors = np.moveaxis(step.vectors, -1, 0)
            moves = np.stack(
                [map_coordinates(part, voxels.T, order=1, mode="nearest") for part in vectors], 1
            )
            # A voxel reaches half its size beyond its center; farther out, the field is zero.
            inside = ((voxels >= -0.5) & (voxels < np.array(step.grid.shape) - 0.5)).all(1)
            points = points + moves * inside[:, None]
        else:
            points = points @ step[:3, :3].T + step[:3, 3]
    return points


def world(grid: Grid, voxels: Array) -> Array:
    return voxels @ grid.affine[:3, :3].T + grid.affine[:3, 3]


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_composite_moves_points_as_sitk_does(tmp_path: Path, name: str) -> None:
    grid = Grid(SHAPE, header(name))
    steps = steps_on(grid)
    write_composite(tmp_path / "x.h5", steps)
    transform = sitk.ReadTransform(str(tmp_path / "x.h5"))
    points = world(grid, np.random.default_rng(0).uniform(6, np.array(SHAPE) - 7, (40, 3)))
    lps = np.array([transform.TransformPoint(p.tolist()) for p in points * [-1, -1, 1]])
    np.testing.assert_allclose(lps * [-1, -1, 1], apply(steps, points), atol=1e-3)
    assert np.abs(apply(steps, points) - apply(steps[::-1], points)).max() > 0.1


@pytest.mark.parametrize("moving_name", ORIENTATIONS)
@pytest.mark.parametrize("fixed_name", ["RAS", "LPS", "anisotropic"])
def test_composite_moves_images_as_sitk_does(tmp_path: Path, fixed_name: str, moving_name: str) -> None:
    """SimpleITK reads the files by itself, in their own axis order; we see them in closest RAS."""
    for which, name in (("fixed", fixed_name), ("moving", moving_name)):
        nib.save(nib.Nifti1Image(smooth(SHAPE, 2)[..., 0], header(name)), tmp_path / f"{which}.nii.gz")
    fixed, moving = read_image(tmp_path / "fixed.nii.gz"), read_image(tmp_path / "moving.nii.gz")
    steps = steps_on(fixed.grid)
    write_composite(tmp_path / "x.h5", steps)
    theirs = sitk.Resample(
        sitk.ReadImage(str(tmp_path / "moving.nii.gz")),
        sitk.ReadImage(str(tmp_path / "fixed.nii.gz")),
        sitk.ReadTransform(str(tmp_path / "x.h5")),
        sitk.sitkLinear,
        -9.0,
    )
    sitk.WriteImage(theirs, str(tmp_path / "moved.nii.gz"))
    moved = read_image(tmp_path / "moved.nii.gz")
    assert moved.grid.same_as(fixed.grid)

    points = world(fixed.grid, np.indices(SHAPE).reshape(3, -1).T)
    voxels = (np.c_[apply(steps, points), np.ones(len(points))] @ np.linalg.inv(moving.grid.affine).T)[:, :3]
    inside = ((voxels > 0.01) & (voxels < np.array(moving.grid.shape) - 1.01)).all(1)
    ours = map_coordinates(moving.data, voxels.T, order=1)
    assert inside.mean() > 0.1
    np.testing.assert_allclose(moved.data.ravel()[inside], ours[inside], atol=2e-3)


def test_a_field_is_zero_outside_its_grid(tmp_path: Path) -> None:
    grid = Grid((6, 6, 6), np.eye(4))
    write_composite(tmp_path / "x.h5", [DisplacementField(grid, np.ones((6, 6, 6, 3), dtype=np.float32))])
    transform = sitk.ReadTransform(str(tmp_path / "x.h5"))
    np.testing.assert_allclose(transform.TransformPoint((-2.0, -2.0, 2.0)), (-3, -3, 3))
    np.testing.assert_allclose(transform.TransformPoint((20.0, 2.0, 2.0)), (20, 2, 2))


@pytest.mark.parametrize("shape", [SHAPE, (20, 22, 1), (20, 1, 18)])
def test_composite_round_trip(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    steps = steps_on(Grid(shape, header("anisotropic")))
    write_composite(tmp_path / "x.h5", steps)
    back = read_composite(tmp_path / "x.h5")
    assert len(back) == len(steps)
    for old, new in zip(steps, back, strict=True):
        if isinstance(old, DisplacementField):
            assert isinstance(new, DisplacementField) and new.grid.same_as(old.grid)
            np.testing.assert_allclose(new.vectors, old.vectors, atol=1e-6)
        else:
            np.testing.assert_allclose(new, old, atol=1e-6)


def test_in_2d_points_of_the_plane_move_as_sitk_does(tmp_path: Path) -> None:
    grid = Grid((20, 22, 1), np.diag([1.0, 1.2, 1.0, 1.0]))
    steps: list[Step] = [DisplacementField(grid, smooth(grid.shape, 3) * [1, 1, 0])]
    write_composite(tmp_path / "x.h5", steps)
    transform = sitk.ReadTransform(str(tmp_path / "x.h5"))
    points = world(grid, np.random.default_rng(0).uniform([1, 1, 0], [18, 20, 0], (30, 3)))
    lps = np.array([transform.TransformPoint(p.tolist()) for p in points * [-1, -1, 1]])
    np.testing.assert_allclose(lps * [-1, -1, 1], apply(steps, points), atol=1e-4)


def test_composites_of_others(tmp_path: Path) -> None:
    """SimpleITK's own file, in double precision and with a center; other transforms are refused."""
    affine = itk_affine(header("anisotropic"))
    affine.SetCenter((4, 5, 6))
    sitk.WriteTransform(sitk.CompositeTransform([affine]), str(tmp_path / "a.h5"))
    (matrix,) = read_composite(tmp_path / "a.h5")
    lps = LPS @ matrix @ LPS
    np.testing.assert_allclose(
        lps[:3, :3] @ [7, 8, 9] + lps[:3, 3], affine.TransformPoint((7, 8, 9)), atol=1e-6
    )
    sitk.WriteTransform(sitk.CompositeTransform([sitk.ScaleTransform(3)]), str(tmp_path / "b.h5"))
    with pytest.raises(AtlasmithError, match="neither affine nor displacement"):
        read_composite(tmp_path / "b.h5")


def test_affine_file(tmp_path: Path) -> None:
    matrix = header("anisotropic")
    write_affine(tmp_path / "x.mat", matrix)
    np.testing.assert_allclose(read_affine(tmp_path / "x.mat"), matrix, atol=1e-12)
    point = np.array([3.0, -4.0, 5.0])
    lps = sitk.ReadTransform(str(tmp_path / "x.mat")).TransformPoint((point * [-1, -1, 1]).tolist())
    np.testing.assert_allclose(lps * np.array([-1, -1, 1]), matrix[:3, :3] @ point + matrix[:3, 3])


def test_equal_transforms_give_equal_bytes(tmp_path: Path) -> None:
    steps = steps_on(Grid(SHAPE, header("oblique")))
    for index in range(2):
        write_composite(tmp_path / f"{index}.h5", steps)
        write_affine(tmp_path / f"{index}.mat", header("oblique"))
        time.sleep(1.1 * (1 - index))  # HDF5's time stamps have seconds
    for kind in ("h5", "mat"):
        assert (tmp_path / f"0.{kind}").read_bytes() == (tmp_path / f"1.{kind}").read_bytes()


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_sitk_image_lies_where_the_file_does(tmp_path: Path, name: str) -> None:
    nib.save(nib.Nifti1Image(smooth(SHAPE, 4)[..., 0], header(name)), tmp_path / "x.nii.gz")
    image: Image = read_image(tmp_path / "x.nii.gz")
    ours = to_sitk(image.data, image.grid)
    np.testing.assert_array_equal(from_sitk(ours), image.data)
    theirs = sitk.ReadImage(str(tmp_path / "x.nii.gz"))
    center = theirs.TransformContinuousIndexToPhysicalPoint([8.0, 9.0, 7.0])
    index = ours.TransformPhysicalPointToIndex(center)
    np.testing.assert_allclose(ours.TransformIndexToPhysicalPoint(index), center, atol=1e-4)
    assert ours[index] == theirs[8, 9, 7]


def test_what_the_docs_say_of_files_of_two_axes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ITK can't apply a 3-D transform to them; to their copies with a third axis it can."""
    monkeypatch.chdir(tmp_path)
    data = (np.indices((20, 16)).sum(axis=0) % 7).astype(np.float32)
    affine = np.array([[-1.5, 0, 0, 12.0], [0, 1.5, 0, -9.0], [0, 0, 3, 7.0], [0, 0, 0, 1]])
    flat = nib.Nifti1Image(data, affine)
    flat.set_qform(affine, 1)
    flat.to_filename("sub-01_T1w.nii.gz")
    grid = Grid((18, 14, 1), np.array([[1.5, 0, 0, -12.0], [0, 1.5, 0, -9.0], [0, 0, 1.5, 0], [0, 0, 0, 1]]))
    shift = np.eye(4)
    shift[:3, 3] = [2.3, -1.1, 7]
    write_composite("xfm.h5", [shift])
    template, transform = to_sitk(np.zeros(grid.shape, np.float32), grid), sitk.ReadTransform("xfm.h5")
    with pytest.raises(RuntimeError, match="mension"):
        sitk.Resample(sitk.ReadImage("sub-01_T1w.nii.gz"), template, transform)
    text = (Path(__file__).parents[2] / "docs/outputs.md").read_text(encoding="utf-8")
    exec(text.split("```python\n")[1].split("```")[0], {})
    moved = from_sitk(sitk.Resample(sitk.ReadImage("sub-01_slice.nii.gz"), template, transform))
    image = read_image("sub-01_T1w.nii.gz")
    ours = resample(torch.from_numpy(image.grid.squeeze(image.data))[None, None], image.grid, [shift], grid)
    np.testing.assert_allclose(moved[..., 0], ours[0, 0].numpy(), atol=1e-4)
    assert moved.std() > 1
