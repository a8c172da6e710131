"""Images: closest-RAS reading, and writing back in a file's own orientation."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from nibabel import orientations

from atlasmith.core.errors import InputError
from atlasmith.core.grid import Array
from atlasmith.io.images import read_grid, read_image, read_labels, small_integer_type, write_image

SPACING = (1.0, 1.5, 3.0)


def affine_of(codes: str, degrees: float = 0.0) -> Array:
    """Axes named by `codes`, of `SPACING` in RAS order, turned about the third world axis."""
    order = orientations.axcodes2ornt(codes)
    turn = np.radians(degrees)
    rotation = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    affine = np.eye(4)
    for axis, (world, sign) in enumerate(order):
        affine[:3, axis] = rotation[:, int(world)] * sign * SPACING[int(world)]
    affine[:3, 3] = [-12.5, 30.0, 7.25]
    return affine


def save(path: Path, shape: tuple[int, ...], affine: Array, kind: type = np.float32) -> Array:
    data = np.random.default_rng(0).integers(0, 200, shape).astype(kind)
    nib.Nifti1Image(data, affine).to_filename(path)
    return data


@pytest.mark.parametrize("extension", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    ("codes", "degrees"),
    [("RAS", 0), ("LAS", 0), ("LPS", 0), ("PIR", 0), ("SAL", 0), ("LPS", 20), ("RAS", -35)],
)
def test_reading_keeps_each_voxel_at_its_place_and_writing_restores_the_file(
    tmp_path: Path, codes: str, degrees: float, extension: str
) -> None:
    path, copy = tmp_path / f"a{extension}", tmp_path / f"b{extension}"
    affine = affine_of(codes, degrees)
    data = save(path, (5, 6, 7), affine)
    image = read_image(path)
    assert nib.aff2axcodes(image.grid.affine) == ("R", "A", "S")
    # The same value at the same place in the world.
    index = np.array([1, 4, 2])
    world = affine[:3, :3] @ index + affine[:3, 3]
    there = np.linalg.solve(image.grid.affine, [*world, 1])[:3]
    assert np.allclose(there, there.round(), atol=1e-4)
    assert image.data[tuple(there.round().astype(int))] == data[tuple(index)]
    assert read_grid(path).same_as(image.grid)

    write_image(copy, image.data, image.grid, like=path)
    original, written = nib.load(path), nib.load(copy)
    assert np.array_equal(np.asarray(written.dataobj), data)
    assert np.allclose(written.affine, original.affine, atol=1e-5)
    for form in ("sform_code", "qform_code", "xyzt_units"):
        assert written.header[form] == original.header[form]


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 1)])
@pytest.mark.parametrize("codes", ["RAS", "LPS", "RSA", "ASL"])
def test_two_dimensions(tmp_path: Path, shape: tuple[int, ...], codes: str) -> None:
    path, copy = tmp_path / "a.nii.gz", tmp_path / "b.nii.gz"
    data = save(path, shape, affine_of(codes))
    image = read_image(path)
    assert image.grid.ndim == 2 and image.data.ndim == 3
    assert [n for n in image.grid.shape if n > 1] in ([6, 5], [5, 6])
    assert read_grid(path).same_as(image.grid)
    write_image(copy, image.data, image.grid, like=path)
    written = nib.load(copy)
    assert written.shape == shape
    assert np.array_equal(np.asarray(written.dataobj), data)
    assert np.allclose(written.affine, nib.load(path).affine)


def test_a_stack_is_written_in_the_subjects_orientation(tmp_path: Path) -> None:
    path, copy = tmp_path / "a.nii.gz", tmp_path / "b.nii.gz"
    data = save(path, (5, 6, 7), affine_of("PIR"))
    image = read_image(path)
    stack = np.stack([image.data, image.data + 1], axis=-1)
    write_image(copy, stack, image.grid, like=path)
    assert np.array_equal(np.asarray(nib.load(copy).dataobj), np.stack([data, data + 1], axis=-1))
    assert np.array_equal(read_image(copy).data, stack)


def test_scaled_integers_are_read_as_intensities_and_written_unscaled(tmp_path: Path) -> None:
    path, copy = tmp_path / "a.nii.gz", tmp_path / "b.nii.gz"
    stored = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    file = nib.Nifti1Image(stored, np.eye(4))
    file.header.set_slope_inter(0.5, 10)
    file.to_filename(path)
    image = read_image(path)
    assert np.allclose(image.data, np.asarray(nib.load(path).dataobj))
    write_image(copy, image.data, image.grid, like=path)
    assert np.allclose(read_image(copy).data, image.data)


def test_labels_keep_their_numbers_in_the_smallest_type(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    grid_of = save(tmp_path / "grid.nii.gz", (3, 4, 5), np.eye(4))
    for top, kind in ((255, np.uint8), (256, np.int16), (70000, np.int32)):
        labels = np.zeros(grid_of.shape, dtype=np.int64)
        labels[1, 2, 3] = top
        write_image(path, labels, read_grid(tmp_path / "grid.nii.gz"))
        assert nib.load(path).get_data_dtype() == kind
        assert np.array_equal(read_labels(path).data, labels)
    with pytest.raises(ValueError, match="32 bits"):
        small_integer_type(np.array([2**40]))


def test_the_same_voxels_give_the_same_bytes(tmp_path: Path) -> None:
    save(tmp_path / "a.nii.gz", (5, 6, 7), affine_of("LPS"))
    image = read_image(tmp_path / "a.nii.gz")
    for name in ("b", "c"):
        write_image(tmp_path / f"{name}.nii.gz", image.data, image.grid)
    assert (tmp_path / "b.nii.gz").read_bytes() == (tmp_path / "c.nii.gz").read_bytes()


def test_an_image_of_another_grid_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    save(tmp_path / "a.nii.gz", (5, 6, 7), np.eye(4))
    image = read_image(tmp_path / "a.nii.gz")
    with pytest.raises(ValueError, match="can't be written on the grid"):
        write_image(tmp_path / "b.nii.gz", image.data[:4], image.grid, like=tmp_path / "a.nii.gz")
    assert [path.name for path in tmp_path.iterdir()] == ["a.nii.gz"]


@pytest.mark.parametrize("shape", [(5, 6, 7), (5, 6, 1), (5, 6)], ids=str)
def test_nifti_2_is_read_and_results_are_nifti_1(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """ITK reads NIfTI-1 alone."""
    one, two, copy = (tmp_path / f"{name}.nii.gz" for name in ("one", "two", "copy"))
    data, affine = save(one, shape, affine_of("LPS", 20)), affine_of("LPS", 20)
    file = nib.Nifti2Image(data, affine)
    file.set_sform(affine, 1)
    file.set_qform(affine, 1)
    file.header.set_xyzt_units("mm")
    file.to_filename(two)
    assert type(nib.load(two)) is nib.Nifti2Image
    image = read_image(two)
    np.testing.assert_array_equal(image.data, read_image(one).data)
    np.testing.assert_array_equal(read_labels(two).data, read_labels(one).data)
    assert read_grid(two).same_as(read_grid(one)) and image.grid.same_as(read_grid(one))
    write_image(copy, image.data, image.grid, like=two)
    written = nib.load(copy)
    assert type(written) is nib.Nifti1Image
    np.testing.assert_array_equal(np.asarray(written.dataobj), data)
    for get in ("get_qform", "get_sform"):
        (found, code), (expected, _) = (getattr(f, get)(coded=True) for f in (written, nib.load(two)))
        assert code == 1
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert written.header.get_xyzt_units()[0] == "mm"
    if len(shape) == 3:
        assert sitk.ReadImage(str(copy)).GetSize() == shape


def test_an_axis_too_long_for_nifti_1_is_written_as_nifti_2(tmp_path: Path) -> None:
    path, copy = tmp_path / "a.nii", tmp_path / "b.nii.gz"
    data = np.zeros((40000, 2, 2), np.int16)
    data[39999, 1, 0] = 7
    nib.Nifti2Image(data, np.eye(4)).to_filename(path)
    for image in (read_image(path), read_labels(path)):
        write_image(copy, image.data, image.grid, like=path)
        np.testing.assert_array_equal(np.asarray(nib.load(copy).dataobj), data)


@pytest.mark.parametrize("kind", [nib.AnalyzeImage, nib.Nifti1Pair, nib.MGHImage])
def test_other_formats_are_refused(tmp_path: Path, kind: type) -> None:
    path = tmp_path / ("a.mgz" if kind is nib.MGHImage else "a.img")
    kind(np.zeros((3, 4, 5), np.int16), np.eye(4)).to_filename(path)
    for read in (read_image, read_labels, read_grid):
        with pytest.raises(InputError, match="Convert it to one NIfTI file"):
            read(path)


def scaled(path: Path, stored: Array, slope: float, inter: float = 0.0) -> None:
    file = nib.Nifti1Image(stored, np.eye(4))
    file.header.set_slope_inter(slope, inter)
    file.to_filename(path)


@pytest.mark.parametrize("kind", [np.int16, np.int32, np.int64, np.uint64, np.float32, np.float64])
def test_labels_of_any_type_are_integers(tmp_path: Path, kind: type) -> None:
    labels = np.array([0, 1, 2, 17, 1035, 12175] * 4).reshape(2, 3, 4)
    nib.Nifti1Image(labels.astype(kind), np.eye(4), dtype=kind).to_filename(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(read_labels(tmp_path / "a.nii.gz").data, labels)


@pytest.mark.parametrize(("factor", "slope"), [(85, 1 / 85), (10, 0.1), (2, 0.5), (30, 1 / 30)])
def test_scaled_labels_are_integers_within_a_thousandth(tmp_path: Path, factor: int, slope: float) -> None:
    """A slope of 1/85 in single precision makes 2.0000000391 of 2."""
    labels = np.array([0, 1, 2, 3, 17, 300] * 4).reshape(2, 3, 4)
    scaled(tmp_path / "a.nii.gz", (labels * factor).astype(np.int16), slope)
    np.testing.assert_array_equal(read_labels(tmp_path / "a.nii.gz").data, labels)
    scaled(tmp_path / "a.nii.gz", (labels - 5).astype(np.int16), 1.0, 5.0)
    np.testing.assert_array_equal(read_labels(tmp_path / "a.nii.gz").data, labels)


def test_values_between_integers_are_shown_in_full_with_their_scaling(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    scaled(path, np.full((2, 3, 4), 85, np.int16), 1.01 / 85)
    with pytest.raises(InputError) as caught:
        read_labels(path)
    assert "24 voxels are no integers, such as 1.00999997" in str(caught.value)
    assert "scl_slope is 0.01188235" in str(caught.value)


@pytest.mark.parametrize("value", [2**40, -(2**40), 1e20, np.inf, np.nan, 0.5])
def test_values_that_are_no_labels(tmp_path: Path, value: float) -> None:
    nib.Nifti1Image(np.full((2, 3, 4), value, np.float64), np.eye(4)).to_filename(tmp_path / "a.nii.gz")
    with pytest.raises(InputError, match=r"a\.nii\.gz"):
        read_labels(tmp_path / "a.nii.gz")
