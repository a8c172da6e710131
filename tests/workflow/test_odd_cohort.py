"""A whole run on a cohort that is odd in many ways at once, each of which once stopped a run."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import yaml
from conftest import discs
from small_run import finish, start

from atlasmith.config import Config, load_config
from atlasmith.core.grid import Array
from atlasmith.io.tables import read_tsv

ROLES = ["atlas"] * 4 + ["target"] * 3
RARE = 77  # a label that one atlas has alone
METHODS = ["majority", "local_weighted", "staple", "jlf", "votenet", "autocontext"]
AFFINE = np.array([[-1.5, 0, 0, 30], [0, 1.5, 0, -30], [0, 0, 6, -6], [0, 0, 0, 1.0]])


def write_odd_cohort(folder: Path) -> Path:
    """Write slabs of three slices, in NIfTI-2 and with scaled labels among others; return the config."""
    random, lines = np.random.default_rng(0), ["participant_id\trole\tnotes"]
    for index, role in enumerate(ROLES, start=1):
        name = f"sub-{index:02d}"
        image, labels = discs(50.0 + index, random)
        labels[(labels == 4) & (np.indices(labels.shape)[1] < 20)] = 0
        image, labels = image.repeat(3, axis=2) * np.float32([0.9, 1, 0.95]), labels.repeat(3, axis=2)
        if index == 1:
            kept = image, labels
        elif index == 2:  # a copy
            image, labels = kept
        elif index == 3:
            labels = np.where((labels == 4) & (np.indices(labels.shape)[0] < 20), RARE, labels)
        elif index == 5:  # nothing was drawn
            labels = np.zeros_like(labels)
        elif index == 6:  # the field of view ends before the structures
            image, labels = image[:, :14], labels[:, :14]
        kind = nib.Nifti2Image if index == 4 else nib.Nifti1Image
        save(folder / f"bids/{name}/anat/{name}_T1w.nii.gz", kind(image, AFFINE))
        file = kind((labels * (8 if index == 4 else 1)).astype(np.int16), AFFINE)
        if index == 4:
            file.header.set_slope_inter(1 / 8.0000001, 0)
        save(folder / f"bids/derivatives/manual/{name}/anat/{name}_dseg.nii.gz", file)
        lines.append(f"{name}\t{role}\t" + ('"restless' if index == 5 else "n/a"))
    (folder / "bids/participants.tsv").write_text("\n".join(lines) + "\n")
    config = {
        "output": "~/results",
        "device": "cpu",
        "cohort": {"bids": "$HOME/bids"},
        "preprocess": {"n4": True},
        "affine": {"iterations": 1},
        "template": {
            "spacing": 1.5,
            "steps": 5,
            "network": {"channels": [4, 8, 8]},
            "refinement": {"rounds": 1, "steps": 4},
        },
        "register": {"instance_optimization": {"steps": 8}},
        "fusion": {
            "methods": METHODS,
            "uncertainty": True,
            "votenet": {"channels": [4, 8], "steps": 5, "patch": 16},
            "autocontext": {"steps": 20, "voxels": 1000, "width": 8},
        },
        "score": {"bootstrap": 20},
    }
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def save(path: Path, file: nib.Nifti1Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    file.set_sform(AFFINE, 1)
    file.set_qform(AFFINE, 1)
    file.to_filename(path)


def voxels(path: Path) -> Array:
    return np.asarray(nib.load(path).dataobj)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Config:
    folder = tmp_path_factory.mktemp("it's") / "an odd (folder)"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder))
        path = write_odd_cohort(folder)
        finish(start(folder, "--cores", "2"))
        return load_config(path)


pytestmark = pytest.mark.slow


def test_the_home_folder_has_the_results(finished: Config) -> None:
    assert finished.layout.report.exists()
    assert not (finished.output.parent / "~").exists()
    assert len(read_tsv(finished.layout.cohort)) == len(ROLES)


@pytest.mark.parametrize("method", METHODS)
def test_a_slab_is_segmented_by_every_method(finished: Config, method: str) -> None:
    found = voxels(finished.layout.segmentation("07", method))
    bids = finished.cohort.bids
    true = voxels(bids / "derivatives/manual/sub-07/anat/sub-07_dseg.nii.gz")
    for label in (4, 1000):
        a, b = found == label, true == label
        assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.7, label


@pytest.mark.parametrize("method", METHODS)
def test_a_field_of_view_that_ends_before_the_structures_is_segmented(finished: Config, method: str) -> None:
    assert voxels(finished.layout.segmentation("06", method)).shape == (40, 14, 3)
    assert "sub-06" in finished.layout.report.read_text(encoding="utf-8")


def test_empty_labels_are_scored_without_a_surface(finished: Config) -> None:
    rows = [row for row in read_tsv(finished.layout.scores) if row["participant_id"] == "sub-05"]
    assert {row["value"] for row in rows if row["metric"] == "dice"} <= {"0", "n/a"}
    assert {row["value"] for row in rows if row["metric"] == "hd95_mm"} == {"n/a"}


def test_copies_are_named(finished: Config) -> None:
    rows = {row["participant_id"]: row["duplicate"] for row in read_tsv(finished.layout.atlas_qc)}
    assert rows == {"sub-01": "sub-02", "sub-02": "sub-01", "sub-03": "n/a", "sub-04": "n/a"}


def test_a_label_of_one_atlas_alone_is_kept(finished: Config) -> None:
    assert [int(row["index"]) for row in read_tsv(finished.layout.labels)] == [4, RARE, 1000]


@pytest.mark.parametrize("subject", ["04", "07"], ids=["NIfTI-2", "NIfTI-1"])
def test_itk_resamples_as_we_do(finished: Config, subject: str) -> None:
    layout = finished.layout
    image, template, warped = (
        sitk.ReadImage(str(path))
        for path in (layout.preprocessed(subject), layout.template_image, layout.warped(subject))
    )
    moved = sitk.Resample(image, template, sitk.ReadTransform(str(layout.forward(subject))))
    error = np.abs(sitk.GetArrayFromImage(moved) - sitk.GetArrayFromImage(warped))
    assert np.quantile(error, 0.99) < 0.02
