"""One image, label file and mask is found of each scan; otherwise the message says what lies there."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from tiny import AFFINE, Tiny, only

from atlasmith.cohort import check_cohort, write_checked_cohort
from atlasmith.cohort.scans import entities_of, select
from atlasmith.core.grid import Array
from atlasmith.io.tables import read_cohort

TWO = {"suffix": ["T1w", "T2w"]}
FOLDERS = {"masks": "derivatives/masks", "exclude": "derivatives/lesions"}
IDS = ("sub-01", "sub-02", "sub-03", "sub-04")


def copy_as(path: Path, *names: str) -> list[Path]:
    """Copy a file under other names."""
    return [Path(shutil.copyfile(path, path.with_name(name))) for name in names]


class TestEntities:
    @pytest.mark.parametrize(
        ("wanted", "found"),
        [
            ({}, "abcd"),
            ({"run": 1}, "ab"),
            ({"run": "01"}, "ab"),
            ({"run": "1", "acq": "fast"}, "b"),
            ({"run": [1, 2]}, "abc"),
            ({"run": None}, "d"),
            ({"acq": [None, "fast"]}, "abd"),
            ({"acq": "Fast"}, ""),
            ({"rec": "x"}, ""),
        ],
    )
    def test_they_choose_files(self, wanted: dict[str, Any], found: str) -> None:
        names = {
            "a": "sub-01_run-1_T1w.nii.gz",
            "b": "sub-01_acq-fast_run-01_T1w.nii",
            "c": "sub-01_acq-slow_run-2_T1w.nii.gz",
            "d": "sub-01_T1w.nii.gz",
        }
        chosen = {path.name for path in select([Path(name) for name in names.values()], wanted)}
        assert "".join(key for key, name in names.items() if name in chosen) == found

    def test_they_are_read_from_names(self) -> None:
        path = Path("a_b-c/sub-01_ses-02_acq-x_desc-a.b_T1w.nii.gz")
        assert entities_of(path) == {"sub": "01", "ses": "02", "acq": "x"}
        assert entities_of(Path("T1w.nii")) == {}

    def test_several_images_are_listed_with_a_choice(self, tiny: Tiny) -> None:
        path = tiny.image("sub-03")
        slow, fast = copy_as(path, "sub-03_acq-slow_T1w.nii.gz", "sub-03_acq-fast_run-2_T1w.nii.gz")
        path.unlink()
        only(
            tiny.problems(),
            *(path.parent, slow.name, fast.name),
            "by cohort.entities, such as {acq: fast, run: 2}",
        )
        for entities in ({"acq": [None, "fast"]}, {"run": [None, 2], "acq": [None, "fast"]}):
            assert check_cohort(tiny.config(cohort={"entities": entities})).subjects[2].image == fast

    def test_an_image_without_an_entity_can_be_chosen(self, tiny: Tiny) -> None:
        path = tiny.image("sub-03")
        copy_as(path, "sub-03_ce-gad_T1w.nii.gz")
        only(tiny.problems(), path.parent, "{ce: null}")
        assert check_cohort(tiny.config(cohort={"entities": {"ce": None}})).subjects[2].image == path

    def test_entities_that_let_no_image_through(self, tiny: Tiny) -> None:
        problems = tiny.problems(cohort={"entities": {"acq": ["mprage", None], "run": 2}})
        assert len(problems) == 4
        only(problems[2:3], "none of the T1w images has {acq: mprage or null, run: 2}: sub-03_T1w.nii.gz")

    def test_label_entities(self, tiny: Tiny) -> None:
        path = tiny.labels("sub-02")
        (other,) = copy_as(path, "sub-02_desc-other_dseg.nii.gz")
        only(tiny.problems(), path.parent, other.name, "cohort.label_entities, such as {desc: other}")
        config = tiny.config(cohort={"label_entities": {"desc": None}})
        assert check_cohort(config).subjects[1].labels == path

    def test_the_same_image_twice(self, tiny: Tiny) -> None:
        path = tiny.image("sub-03")
        nib.load(path).to_filename(path.with_name("sub-03_T1w.nii"))
        only(tiny.problems(), path.parent, "sub-03_T1w.nii, sub-03_T1w.nii.gz", "Leave one")


class TestMissingImages:
    def test_with_another_suffix(self, tiny: Tiny) -> None:
        path = tiny.image("sub-03")
        path.rename(path.with_name("sub-03_T2w.nii.gz"))
        only(tiny.problems(), path, "no such image", "There: sub-03/anat/sub-03_T2w.nii.gz")

    def test_in_a_folder_where_none_is_looked_for(self, tiny: Tiny) -> None:
        path = tiny.image("sub-03")
        folder = path.parents[1] / "ses-1" / "anat"
        folder.mkdir(parents=True)
        path.rename(folder / path.name)  # not named after its session
        only(tiny.problems(), path, "no such image", "There: ses-1/anat/sub-03_T1w.nii.gz")

    def test_of_all_subjects(self, tiny: Tiny) -> None:
        only(tiny.problems(cohort={"suffix": "T2w"}), "*_T2w.nii.gz", "There: sub-01/anat/sub-01_T1w.nii.gz")

    def test_without_a_folder(self, tiny: Tiny) -> None:
        shutil.rmtree(tiny.image("sub-03").parents[1])
        (problem,) = tiny.problems()
        assert problem.endswith("no such image. Add it, or remove the subject from participants.tsv.")


class TestChannels:
    @pytest.fixture
    def channels(self, tiny: Tiny) -> Tiny:
        """sub-01 and sub-02 have both channels, sub-03 the first alone, and sub-04 the second alone."""
        for name in ("sub-01", "sub-02", "sub-04"):
            copy_as(tiny.image(name), f"{name}_T2w.nii.gz")
        tiny.image("sub-04").unlink()
        return tiny

    def second(self, tiny: Tiny, name: str) -> Path:
        return tiny.image(name).with_name(f"{name}_T2w.nii.gz")

    def test_one_is_needed(self, channels: Tiny) -> None:
        config = channels.config(cohort=TWO)
        write_checked_cohort(config)
        found = [list(subject.channels) for subject in read_cohort(config.layout.cohort)]
        assert found == [["T1w", "T2w"], ["T1w", "T2w"], ["T1w"], ["T2w"]]
        subject = read_cohort(config.layout.cohort)[3]
        assert subject.image == subject.channels["T2w"] == self.second(channels, "sub-04")
        # Six images and three label files.
        assert len(config.layout.inputs.read_text().splitlines()) == 9

    def test_each_is_checked(self, channels: Tiny) -> None:
        path = self.second(channels, "sub-02")
        channels.change(path, lambda data: np.full_like(data, 3))
        only(channels.problems(cohort=TWO), path, "every voxel is 3")
        path.write_bytes(b"")
        only(channels.problems(cohort=TWO), path, "can't be read")

    def test_the_entities_are_those_of_one_channel(self, channels: Tiny) -> None:
        copy_as(channels.image("sub-01"), "sub-01_acq-x_T1w.nii.gz")
        only(channels.problems(cohort=TWO), "several T1w images", "{acq: null}")

    @pytest.mark.parametrize("moved", [0.0, 23.0, 25.0])
    def test_their_fields_of_view_overlap(self, channels: Tiny, moved: float) -> None:
        path, affine = self.second(channels, "sub-02"), AFFINE.copy()
        affine[0, 3] += moved  # of 24 mm
        channels.save(path, np.asarray(nib.load(path).dataobj)[:, ::2, 1:], affine)
        if moved > 24:
            only(channels.problems(cohort=TWO), path, "nothing in common")
        else:
            check_cohort(channels.config(cohort=TWO))

    def test_their_dimensions_agree(self, channels: Tiny) -> None:
        path = self.second(channels, "sub-02")
        channels.save(path, np.asarray(nib.load(path).dataobj)[:, :, 4:5], AFFINE)
        only(channels.problems(cohort=TWO), path, "it is 2-D, and sub-02_T1w.nii.gz is 3-D")


class TestMasks:
    @pytest.fixture
    def masked(self, tiny: Tiny) -> Tiny:
        """The cohort with a mask of each object, and what to exclude of sub-01."""
        box = np.zeros((12, 10, 9), dtype=np.uint8)
        box[3:9, 2:8, 2:7] = 1
        for name in IDS:
            tiny.save(self.mask(tiny, "masks", name), box)
        excluded = np.zeros((12, 10, 9), dtype=np.uint8)
        excluded[3:6] = 1
        tiny.save(self.mask(tiny, "lesions", "sub-01"), excluded)
        return tiny

    def mask(self, tiny: Tiny, folder: str, name: str) -> Path:
        return tiny.bids / "derivatives" / folder / name / "anat" / f"{name}_mask.nii.gz"

    def test_they_are_in_the_table_and_the_checksums(self, masked: Tiny) -> None:
        config = masked.config(cohort=FOLDERS)
        write_checked_cohort(config)
        subjects = read_cohort(config.layout.cohort)
        assert [s.mask for s in subjects] == [self.mask(masked, "masks", name) for name in IDS]
        assert [s.exclude for s in subjects] == [self.mask(masked, "lesions", "sub-01"), None, None, None]
        # Four images, three label files, five masks.
        assert len(config.layout.inputs.read_text().splitlines()) == 12

    def test_one_of_each_scan(self, masked: Tiny) -> None:
        path = self.mask(masked, "masks", "sub-02")
        (other,) = copy_as(path, "sub-02_desc-brain_mask.nii.gz")
        only(masked.problems(cohort=FOLDERS), path.parent, path.name, other.name)
        path.unlink()
        check_cohort(masked.config(cohort=FOLDERS))
        other.rename(path.with_name("sub-02_brain.nii.gz"))
        only(masked.problems(cohort=FOLDERS), path, "There: sub-02/anat/sub-02_brain.nii.gz")

    @pytest.mark.parametrize("key", ["masks", "exclude"])
    def test_a_folder_that_is_not_there(self, masked: Tiny, key: str) -> None:
        only(masked.problems(cohort={key: "derivatives/mask"}), "derivatives/mask: no such folder", key)

    def test_what_is_excluded_may_be_nothing(self, masked: Tiny) -> None:
        empty = np.zeros((12, 10, 9), dtype=np.uint8)
        masked.save(self.mask(masked, "lesions", "sub-02"), empty)
        check_cohort(masked.config(cohort=FOLDERS))
        path = self.mask(masked, "masks", "sub-02")
        masked.save(path, empty)
        only(masked.problems(cohort=FOLDERS), path, "the mask is empty")

    @pytest.mark.parametrize("masks", [True, False])
    def test_what_is_excluded_is_not_the_whole_object(self, masked: Tiny, masks: bool) -> None:
        def exclude(data: Array) -> None:
            data[3:9, 2:8, 2:7] = 1

        path = self.mask(masked, "lesions", "sub-01")
        folders = FOLDERS if masks else {"exclude": FOLDERS["exclude"]}
        masked.change(path, exclude)
        only(masked.problems(cohort=folders), path, "everything that sub-01_T1w.nii.gz shows is excluded")

        def exclude_less(data: Array) -> None:
            data[8] = 0

        masked.change(path, exclude_less)
        check_cohort(masked.config(cohort=folders))

    @pytest.mark.parametrize("folder", ["masks", "lesions"])
    @pytest.mark.parametrize(
        ("data", "affine", "found"),
        [
            (np.ones((12, 10, 8), np.uint8), AFFINE, "another grid"),
            (np.ones((12, 10, 9), np.uint8), np.diag([2.0, 2, 2, 1]), "another grid"),
            (np.full((12, 10, 9), 0.5, np.float32), AFFINE, "no integers"),
            (np.full((12, 10, 9), np.nan, np.float32), AFFINE, "no integers"),
        ],
    )
    def test_bad_ones(self, masked: Tiny, folder: str, data: Array, affine: Array, found: str) -> None:
        path = self.mask(masked, folder, "sub-01")
        masked.save(path, data, affine)
        only(masked.problems(cohort=FOLDERS), path, found)
