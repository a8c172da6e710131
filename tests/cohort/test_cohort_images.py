"""Image files are found, and every kind of bad one is reported."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from tiny import ROWS, Tiny, only, with_nan

from atlasmith.cohort import (
    check_cohort,
)
from atlasmith.cohort.images import foreground_extent
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
