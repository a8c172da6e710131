"""What is found in a BIDS folder, and the configs that are made of it."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from quick_run import LABELED, UNLABELED, make_cohort

from atlasmith.config import load_config, parse_config
from atlasmith.core.errors import AtlasmithError, InputError
from atlasmith.launch.discovery import discover
from atlasmith.launch.init import write_config


def save(path: Path, data: object = None, zooms: tuple[float, ...] = (1.0, 1.0, 1.0)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    voxels = np.arange(60).reshape(5, 4, 3).astype(np.int16) if data is None else data
    nib.Nifti1Image(voxels, np.diag([*zooms, 1.0])).to_filename(path)


def image(bids: Path, name: str, suffix: str = "T1w", **options: object) -> Path:
    path = bids / name / "anat" / f"{name}_{suffix}.nii.gz"
    save(path, **options)  # type: ignore[arg-type]
    return path


def label(bids: Path, name: str, folder: str = "derivatives/manual") -> None:
    save(bids / folder / name / "anat" / f"{name}_dseg.nii.gz")


@pytest.fixture
def bids(tmp_path: Path) -> Path:
    return make_cohort(tmp_path / "bids")


def test_a_cohort_without_a_table(bids: Path) -> None:
    found = discover(bids)
    assert found.suffixes == {"T1w": 6}
    assert (found.labels, found.scans, found.labeled) == ("derivatives/manual", 6, 3)
    assert found.roles is None and found.covariates == {}
    assert (found.spacing, found.extent, found.flat) == (1.0, (40.0, 40.0, 0.0), True)
    assert not found.hounsfield
    assert found.config() == {
        "cohort": {"bids": str(bids), "suffix": "T1w", "labels": "derivatives/manual", "role": None},
        "template": {"spacing": 1.0},
    }


def test_those_with_labels_are_atlases(bids: Path) -> None:
    from atlasmith.cohort import read_participants

    roles = {p.id: p.role for p in read_participants(parse_config(discover(bids).config()))}
    assert roles == dict.fromkeys(LABELED, "atlas") | dict.fromkeys(UNLABELED, "target")


def test_columns_that_can_be_used(bids: Path) -> None:
    columns = {
        "role": ["atlas"] * 3 + ["target"] * 3,
        "age": ["61", "70", "n/a", "83", "70.5", "62"],
        "sex": ["F", "M", "F", "M", "n/a", "M"],
        "group": ["same"] * 6,
        "scanner_id": ["a", "b", "c", "d", "e", "f"],
        "mixed": ["1", "2", "x", "4", "5", "6"],
        "rare": ["n/a", "n/a", "n/a", "n/a", "1", "2"],
    }
    names = [f"sub-{name}" for name in (*LABELED, *UNLABELED)]
    rows = zip(names, *columns.values(), strict=True)
    lines = ["\t".join(["participant_id", *columns]), *("\t".join(row) for row in rows)]
    (bids / "participants.tsv").write_text("\n".join(lines) + "\n")
    found = discover(bids)
    assert found.roles == {"atlas": 3, "target": 3}
    assert found.covariates == {"age": "continuous", "sex": "F or M"}


def test_a_column_of_other_roles_is_none(bids: Path) -> None:
    names = [f"sub-{name}" for name in (*LABELED, *UNLABELED)]
    (bids / "participants.tsv").write_text(
        "participant_id\trole\n" + "".join(f"{n}\tpatient\n" for n in names)
    )
    assert discover(bids).roles is None


def test_sessions_suffixes_and_voxel_sizes(tmp_path: Path) -> None:
    for name in ("sub-a", "sub-b"):
        for session in ("ses-1", "ses-2"):
            save(tmp_path / name / session / "anat" / f"{name}_{session}_T2w.nii.gz", zooms=(0.5, 0.5, 4.0))
    image(tmp_path, "sub-c", "T1w")
    found = discover(tmp_path)
    assert found.suffixes == {"T2w": 4, "T1w": 1}
    assert found.spacing == 1.0  # the cube root of 0.5 * 0.5 * 4
    assert found.extent == (2.5, 2.0, 12.0) and not found.flat


@pytest.mark.parametrize(("first", "second"), [("T1w", "T2w"), ("PDw", "T1w")])
def test_t1w_comes_first_among_equals(first: str, second: str, tmp_path: Path) -> None:
    for suffix in (first, second):
        image(tmp_path, "sub-01", suffix)
    assert next(iter(discover(tmp_path).suffixes)) == "T1w"


def test_segmentations_of_ours_are_no_manual_labels(bids: Path) -> None:
    own = bids / "derivatives" / "atlasmith"
    for name in (*LABELED, *UNLABELED):
        label(bids, f"sub-{name}", "derivatives/atlasmith")
    (own / "dataset_description.json").write_text(json.dumps({"GeneratedBy": [{"Name": "atlasmith"}]}))
    assert discover(bids).labels == "derivatives/manual"
    (own / "dataset_description.json").unlink()
    assert discover(bids).labels == "derivatives/atlasmith"


def test_ct_gets_a_window_and_one_atlas_no_training(tmp_path: Path) -> None:
    air_and_bone = np.linspace(-1000, 1000, 60).reshape(5, 4, 3).astype(np.int16)
    for name in ("sub-01", "sub-02"):
        image(tmp_path, name, "ct", data=air_and_bone)
    label(tmp_path, "sub-01")
    values = discover(tmp_path).config()
    assert values["preprocess"] == {"window": [-160, 240]}
    assert values["fusion"] == {"methods": ["majority"]}


def test_a_broken_image_is_left_to_the_cohort_stage(bids: Path) -> None:
    (bids / "sub-01" / "anat" / "sub-01_T1w.nii.gz").write_text("broken")
    assert discover(bids).spacing == 1.0


@pytest.mark.parametrize(("make", "found"), [(False, "no such folder"), (True, "there is no image")])
def test_a_folder_without_images_is_refused(make: bool, found: str, tmp_path: Path) -> None:
    if make:
        (tmp_path / "bids" / "sub-01").mkdir(parents=True)
    with pytest.raises(InputError, match=found):
        discover(tmp_path / "bids")


def test_init_writes_a_config_that_is_valid(bids: Path, tmp_path: Path) -> None:
    out = tmp_path / "my.yaml"
    write_config(bids, out)
    config = load_config(out)
    assert config == parse_config({**discover(bids).config(), "report": {}})
    text = out.read_text()
    assert "3 of 6 images have one" in text and "2-D, 40 x 40 mm" in text
    with pytest.raises(AtlasmithError, match=r"my\.yaml exists already"):
        write_config(bids, out)
    assert out.read_text() == text


def test_init_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image(tmp_path, "sub-01")
    write_config(tmp_path, tmp_path / "my.yaml")
    assert "no labels were found" in capsys.readouterr().err
    assert "NOT FOUND" in (tmp_path / "my.yaml").read_text()
    load_config(tmp_path / "my.yaml")
