"""Label files are found, and every kind of bad one is reported."""

from __future__ import annotations

import gzip
from collections.abc import Callable

import nibabel as nib
import numpy as np
import pytest
from tiny import Tiny, only

from atlasmith.cohort import (
    check_cohort,
)
from atlasmith.core.grid import Array


def test_the_labels_of_targets_are_not_read(tiny: Tiny) -> None:
    path = tiny.labels("sub-03")
    path.write_bytes(
        gzip.compress(gzip.decompress(path.read_bytes())[:400])
    )  # the header, and hardly a voxel
    assert list(check_cohort(tiny.config()).label_names) == [1, 7]


def test_labels_missing_for_an_atlas(tiny: Tiny) -> None:
    tiny.labels("sub-02").unlink()
    only(tiny.problems(), tiny.labels("sub-02"), "the atlas has no labels")
    tiny.labels("sub-03").unlink()  # a target needs none
    only(tiny.problems(), tiny.labels("sub-02"))


@pytest.mark.parametrize("folder", ["derivatives/mannual", None])
def test_no_labels_at_all(tiny: Tiny, folder: str | None) -> None:
    only(tiny.problems(cohort={"labels": folder}), "cohort.labels")


def test_several_label_files(tiny: Tiny) -> None:
    path = tiny.labels("sub-02")
    path.with_name("sub-02_desc-other_dseg.nii.gz").write_bytes(path.read_bytes())
    only(tiny.problems(), path.parent, "sub-02_desc-other_dseg.nii.gz")


@pytest.mark.parametrize("name", ["sub-01", "sub-03"], ids=["atlas", "target"])
@pytest.mark.parametrize("change", ["shape", "shift"])
def test_labels_on_another_grid(tiny: Tiny, name: str, change: str) -> None:
    path = tiny.labels(name)
    file = nib.load(path)
    data, affine = np.array(file.dataobj), file.affine.copy()
    if change == "shape":
        data = data[:-1]
    else:
        affine[0, 3] += 0.5
    tiny.save(path, data, affine)
    only(tiny.problems(), path, "another grid", "nearest neighbor")


@pytest.mark.parametrize("shift_mm", [1e-4, 0.1])
def test_labels_within_a_tenth_of_a_voxel_are_on_the_same_grid(tiny: Tiny, shift_mm: float) -> None:
    path = tiny.labels("sub-01")
    file = nib.load(path)
    affine = file.affine.copy()
    affine[0, 3] += shift_mm
    tiny.save(path, np.array(file.dataobj), affine)
    check_cohort(tiny.config())


@pytest.mark.parametrize(
    ("edit", "found"),
    [
        (lambda data: data * 0.5, "no integers, such as 0.5"),
        (lambda data: np.where(data == 7, np.nan, data), "no integers, such as nan"),
        (lambda data: data.astype(np.int16) - 1, "from -1 to 6"),
        (lambda data: data * 1e10, "from 0.0 to 70000000000.0"),
        (lambda data: data * 0, "background"),
    ],
    ids=["half", "nan", "negative", "huge", "empty"],
)
def test_bad_labels(tiny: Tiny, edit: Callable[[Array], Array], found: str) -> None:
    tiny.change(tiny.labels("sub-01"), edit)
    only(tiny.problems(), tiny.labels("sub-01"), found)


def test_labels_saved_as_integral_floats_are_accepted(tiny: Tiny) -> None:
    tiny.change(tiny.labels("sub-01"), lambda data: data.astype(np.float32))
    assert list(check_cohort(tiny.config()).label_names) == [1, 7]


@pytest.mark.parametrize("text", ["index\n1\n", "index\tname\none\tleft\n", "index\tname\n\t\n"])
def test_a_bad_table_of_label_names(tiny: Tiny, text: str) -> None:
    path = tiny.bids / "derivatives/manual/dseg.tsv"
    path.write_text(text)
    only(tiny.problems(), path, "no table of labels")


@pytest.mark.parametrize("text", ["index\tname\n1\tleft\tred\n", "index\tname\n1\n", "index\tindex\n1\t1\n"])
def test_a_ragged_table_of_label_names(tiny: Tiny, text: str) -> None:
    path = tiny.bids / "derivatives/manual/dseg.tsv"
    path.write_text(text)
    only(tiny.problems(), path)


def test_a_label_with_two_names(tiny: Tiny) -> None:
    path = tiny.bids / "derivatives/manual/dseg.tsv"
    path.write_text("index\tname\n1\tleft\n1\tright\n")
    only(tiny.problems(), path, "label 1 has two names, 'left' and 'right'")


def test_quotes_in_names_of_labels_are_text(tiny: Tiny) -> None:
    path = tiny.bids / "derivatives/manual/dseg.tsv"
    path.write_text('index\tname\n1\t"left\n7\tn/a\n')
    assert check_cohort(tiny.config()).label_names == {1: '"left', 7: "label7"}


def test_scaled_labels_are_taken(tiny: Tiny) -> None:
    path = tiny.labels("sub-01")
    old = nib.load(path)
    file = nib.Nifti1Image(np.asarray(old.dataobj).astype(np.int16) * 85, old.affine)
    file.header.set_slope_inter(1 / 85, 0)
    file.to_filename(path)
    assert list(check_cohort(tiny.config()).label_names) == [1, 7]
