"""Image files are found, and every kind of bad one is reported."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from tiny import AFFINE, ROWS, Tiny, only, with_nan

from atlasmith.cohort import check_cohort, check_image
from atlasmith.cohort.images import foreground_extent
from atlasmith.core.errors import InputError
from atlasmith.core.grid import Array, Grid
from atlasmith.io.images import Image


def test_uncompressed_images_and_entities_are_found(tiny: Tiny) -> None:
    old = tiny.image("sub-04")
    new = old.with_name("sub-04_acq-mprage_T1w.nii")
    nib.load(old).to_filename(new)
    old.unlink()
    assert check_cohort(tiny.config()).subjects[3].image == new


def test_a_missing_image(tiny: Tiny) -> None:
    tiny.image("sub-03").unlink()
    only(tiny.problems(), tiny.image("sub-03"), "no such image")


def test_a_wrong_suffix_is_reported_once(tiny: Tiny) -> None:
    only(tiny.problems(cohort={"suffix": "T2w"}), tiny.bids, "no subject has an image", "cohort.suffix")


def test_several_images(tiny: Tiny) -> None:
    path = tiny.image("sub-03")
    path.with_name("sub-03_run-2_T1w.nii.gz").write_bytes(path.read_bytes())
    only(tiny.problems(), path.parent, "sub-03_T1w.nii.gz", "sub-03_run-2_T1w.nii.gz")


def truncated(tiny: Tiny, path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-500])


def truncated_before_packing(tiny: Tiny, path: Path) -> None:
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-500]))


def empty(tiny: Tiny, path: Path) -> None:
    path.write_bytes(b"")


def no_nifti(tiny: Tiny, path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\n")


def wrong_magic(tiny: Tiny, path: Path) -> None:
    tiny.patch(path, 344, b"abc\0")


@pytest.mark.parametrize("corrupt", [truncated, truncated_before_packing, empty, no_nifti, wrong_magic])
@pytest.mark.parametrize("kind", ["image", "labels"])
def test_an_unreadable_file(tiny: Tiny, corrupt: Callable[[Tiny, Path], None], kind: str) -> None:
    path = getattr(tiny, kind)("sub-01")
    if kind == "labels":  # compressed, they would be too small to lose 500 bytes
        tiny.change(path, lambda data: np.random.default_rng(0).integers(1, 60000, data.shape, np.uint16))
    corrupt(tiny, path)
    only(tiny.problems(), path, "can't be read")


@pytest.mark.parametrize(
    ("edit", "found"),
    [
        (with_nan, "2 voxels are NaN or infinite"),
        (lambda data: np.full_like(data, 3), "every voxel is 3"),
        (lambda data: np.stack([data, data], axis=-1), "(12, 10, 9, 2)"),
        (lambda data: data[..., None], "(12, 10, 9, 1)"),
        (lambda data: data[:, :1, :1], "(12, 1, 1)"),
        (lambda data: data.astype(np.complex64), "complex64"),
    ],
    ids=["nan", "constant", "4-D", "4-D of one", "1-D", "complex"],
)
def test_bad_voxels(tiny: Tiny, edit: Callable[[Array], Array | None], found: str) -> None:
    tiny.change(tiny.image("sub-04"), edit)
    only(tiny.problems(), tiny.image("sub-04"), found)


@pytest.mark.parametrize(
    ("offset", "values", "found"),
    [
        (280, [0.0, 0.0, 0.0, 0.0], "can't be inverted"),
        (280, [np.nan, 0.0, 0.0, 0.0], "can't be inverted"),
        (280, [0.0, 2.0, 0.0, 0.0], "can't be inverted"),
        (80, [0.0], "voxel sizes are [0.0, 2.0, 2.0] mm"),
        (84, [np.nan], "voxel sizes are [2.0, nan, 2.0] mm"),
    ],
    ids=["zero row", "nan", "two rows alike", "zero zoom", "nan zoom"],
)
def test_bad_geometry(tiny: Tiny, offset: int, values: list[float], found: str) -> None:
    tiny.patch(tiny.image("sub-04"), offset, np.array(values, dtype="<f4").tobytes())
    only(tiny.problems(), tiny.image("sub-04"), found)


def test_the_foreground_is_measured_in_millimetres() -> None:
    grid = Grid((20, 20, 20), np.diag([1.0, 2.0, 3.0, 1.0]))
    data = np.full((20, 20, 20), -5.0, dtype=np.float32)
    data[2:12, 3:9, 4:19] = 100
    assert np.allclose(foreground_extent(Image(data, grid), 4), [10 + 8, 12 + 8, 45 + 8])
    crop = np.random.default_rng(0).uniform(size=(20, 20, 20)).astype(np.float32)
    assert np.allclose(foreground_extent(Image(crop, grid), 4), [20, 40, 60])


def test_hounsfield_units_need_a_window(tiny: Tiny) -> None:
    for row in ROWS:
        tiny.change(tiny.image(row["participant_id"]), lambda data: np.where(data > 0, data, -1000))
    problems = tiny.problems()
    assert len(problems) == len(ROWS)
    assert all("Hounsfield" in problem and "preprocess.window" in problem for problem in problems)
    check_cohort(tiny.config(preprocess={"window": [0, 100]}))


def test_an_image_without_contrast_in_its_window(tiny: Tiny) -> None:
    only(tiny.problems(preprocess={"window": [5000, 6000]})[:1], "no contrast", "preprocess.window")


def test_one_dark_voxel_changes_nothing(tiny: Tiny) -> None:
    expected = check_cohort(tiny.config()).grid

    def darken(data: np.ndarray) -> None:
        data[0, 0, 0] = -1e-3

    tiny.change(tiny.image("sub-03"), darken)
    assert check_cohort(tiny.config()).grid.same_as(expected)


def forms(
    tiny: Tiny, sform: Array | None, qform: Array | None, pixdim: float | None = None, two: bool = False
) -> Path:
    """Write the header of an image and its labels anew, of NIfTI-2 if asked for."""
    for path in (tiny.image("sub-03"), tiny.labels("sub-03")):
        old = nib.load(path)
        file = (nib.Nifti2Image if two else nib.Nifti1Image)(np.asarray(old.dataobj), old.affine)
        file.set_sform(sform, 1 if sform is not None else 0)
        file.set_qform(qform, 1 if qform is not None else 0)
        if pixdim is not None:
            file.header["pixdim"][1:4] = pixdim
        file.to_filename(path)
    return tiny.image("sub-03")


@pytest.mark.parametrize("pixdim", [1.0, 1.9, 2.1])
def test_pixdim_that_differs_from_the_sform(tiny: Tiny, pixdim: float) -> None:
    """ITK takes voxel sizes from pixdim, nibabel from the sform."""
    path = forms(tiny, AFFINE, None, pixdim)
    problems = tiny.problems()
    assert len(problems) == 2  # image and labels
    assert str(path) in problems[0]
    assert f"pixdim says that voxels measure {pixdim:g} x {pixdim:g} x {pixdim:g} mm" in problems[0]
    assert "the sform 2 x 2 x 2" in problems[0]


@pytest.mark.parametrize("two", [False, True], ids=["NIfTI-1", "NIfTI-2"])
def test_forms_within_a_tenth_of_a_voxel(tiny: Tiny, two: bool) -> None:
    sheared = AFFINE.copy()
    sheared[0, 1] = 2 * 0.005  # a twentieth of a voxel over ten voxels
    forms(tiny, sheared, AFFINE, two=two)
    check_cohort(tiny.config())
    forms(tiny, sheared, None, 2.0005, two=two)
    check_cohort(tiny.config())
    sheared[0, 1] = 2 * 0.05
    path = forms(tiny, sheared, AFFINE, two=two)
    assert str(path) in tiny.problems()[0] and "qform and sform disagree" in tiny.problems()[0]


def test_labels_may_have_the_axes_of_the_image_s_other_form(tiny: Tiny) -> None:
    """A tool that reads the qform writes it: tolerances of both comparisons agree."""
    sheared = AFFINE.copy()
    sheared[0, 1] = 2 * 0.005
    for name in ("sub-01", "sub-03"):
        file = nib.load(tiny.image(name))
        file.set_sform(sheared, 1)
        file.set_qform(AFFINE, 1)
        nib.Nifti1Image(np.asarray(file.dataobj), None, file.header).to_filename(tiny.image(name))
    check_cohort(tiny.config())


def test_intensities_that_float32_can_not_tell_apart_are_constant(tiny: Tiny) -> None:
    random = np.random.default_rng(0)
    tiny.change(tiny.image("sub-03"), lambda data: 1e4 + 1e-3 * random.random(data.shape, np.float32))
    only(tiny.problems(), tiny.image("sub-03"), "every voxel is 10000")


@pytest.mark.parametrize("slices", [2, 3, 5])
def test_thin_slabs_are_taken(tiny: Tiny, slices: int) -> None:
    for row in ROWS:
        name = row["participant_id"]
        tiny.change(tiny.image(name), lambda data: data[:, :, 3 : 3 + slices])
        if row["role"] != "train":
            tiny.change(tiny.labels(name), lambda data: data[:, :, 3 : 3 + slices])
    assert check_cohort(tiny.config()).grid.ndim == 3


@pytest.mark.parametrize("extension", [".img", ".mgz"])
def test_an_image_of_another_format_is_named(tiny: Tiny, extension: str) -> None:
    path = tiny.image("sub-03").with_name(f"sub-03_T1w{extension}")
    old = nib.load(tiny.image("sub-03"))
    kind = nib.AnalyzeImage if extension == ".img" else nib.MGHImage
    kind(np.asarray(old.dataobj), old.affine).to_filename(path)
    with pytest.raises(InputError, match="Convert it to one NIfTI file"):
        check_image(path)
    tiny.image("sub-03").unlink()
    only(tiny.problems(), "no such image", path.name, "Images are read from .nii and .nii.gz")


def test_a_margin_is_of_voxels_unless_it_is_given() -> None:
    data = np.zeros((20, 20, 20), dtype=np.float32)
    data[5:15, 5:15, 5:15] = 1
    for size in (0.05, 1.0, 2.0):  # from a mouse's brain to a body
        grid = Grid((20, 20, 20), np.diag([size, size, 2 * size, 1.0]))
        extent = foreground_extent(Image(data, grid))
        assert np.allclose(extent / size, [10 + 8, 10 + 8, 20 + 8])
