"""The jobs that run again when the config or the cohort of a finished run changes. No stage runs here."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from dry_runs import ROLES, add_subject, make_cohort, planned, snakemake, write_config, write_image

from atlasmith.config import load_config
from atlasmith.io.files import lock

FUSION = {"propagate", "fuse_train", "fuse", "fuse_quality", "score", "score_summary", "report"}


def make_finished_run(folder: Path) -> Path:
    """Make a cohort, a config, and an empty file for every output, as if a run had just ended."""
    make_cohort(folder / "bids", ROLES)
    config = write_config(folder, Path("bids"))
    cohort = [sys.executable, "-m", "atlasmith.cli", "cohort", "--config", config]
    subprocess.run(cohort, cwd=folder, check=True)
    rows = snakemake(folder, "--summary", "--configfile", config).stdout
    for name in re.findall(r"^(results/\S+)\t", rows, flags=re.MULTILINE):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if name == "results/report":
            (folder / name).mkdir()
        else:
            (folder / name).touch()
    touched = snakemake(folder, "--touch", "--forceall", "--cores", 1, "--configfile", config)
    assert touched.returncode == 0, touched.stdout
    for name in (folder / "results").rglob("*desc-propagated_T1w.nii.gz"):
        name.unlink()  # temporary
    return config


def replace_command(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let jobs run a shell script in place of `atlasmith`."""
    (folder / "bin").mkdir()
    (folder / "bin" / "atlasmith").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "bin" / "atlasmith").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    make_finished_run(folder)
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "copy"))


@pytest.mark.parametrize(
    ("sections", "rules"),
    [
        ({}, set()),
        ({"report": {"subjects": 3}}, {"report"}),
        ({"score": {"bootstrap": 9}}, {"score", "score_summary", "report"}),
        ({"fusion": {"autocontext": {"steps": 9}}}, FUSION),
        ({"fusion": {"atlas_selection": 1}}, FUSION),
    ],
    ids=["nothing", "report", "score", "autocontext", "atlas selection"],
)
def test_a_changed_section_reruns_the_stages_that_read_it(
    sections: dict[str, object], rules: set[str], folder: Path
) -> None:
    config = write_config(folder, Path("bids"), **sections)
    assert set(planned(folder, "--configfile", config)) - {"all"} == rules


def test_changed_labels_of_a_target_rerun_its_scores_alone(folder: Path) -> None:
    labels = next((folder / "bids" / "derivatives").rglob("sub-02_dseg.nii.gz"))
    nib.Nifti1Image(np.ones((8, 8, 8), np.uint8), np.eye(4)).to_filename(labels)
    jobs = planned(folder, "--configfile", folder / "settings.yaml")
    assert jobs == {"score": 1, "score_summary": 1, "report": 1, "all": 1}


def test_a_changed_image_reruns_its_preprocessing_and_all_that_depends_on_the_template(folder: Path) -> None:
    write_image(folder / "bids" / "sub-04" / "anat" / "sub-04_T1w.nii.gz", labels=True)
    jobs = planned(folder, "--configfile", folder / "settings.yaml")
    assert (jobs["cohort"], jobs["affine"], jobs["template"], jobs["fuse"]) == (1, 3, 1, 3)
    assert jobs["preprocess"] == 1


@pytest.mark.parametrize(
    ("role", "jobs"),
    [
        ("train", {}),
        ("target", {"propagate": 1, "fuse": 1}),
        (
            "atlas",
            {
                "template_labels": 1,
                "propagate": 4,
                "fuse_train": 1,
                "fuse": 4,
                "fuse_quality": 1,
                "score": 4,  # of the other atlases, too, which the new one helps to segment
            },
        ),
    ],
)
def test_a_subject_added_without_a_part_in_the_template_leaves_the_template_unchanged(
    role: str, jobs: dict[str, int], folder: Path
) -> None:
    add_subject(folder / "bids", 7, role, "no")
    own = ["cohort", "preprocess", "affine", "register", "score", "score_summary", "report", "all"]
    assert planned(folder, "--configfile", folder / "settings.yaml") == dict.fromkeys(own, 1) | jobs


def test_a_subject_added_to_the_template_reruns_it(folder: Path) -> None:
    add_subject(folder / "bids", 7, "train", "yes")
    jobs = planned(folder, "--configfile", folder / "settings.yaml")
    assert (jobs["affine"], jobs["template"], jobs["register"]) == (3, 1, 3)
    assert jobs["preprocess"] == 1


def test_a_corrected_covariate_reruns_the_template(folder: Path) -> None:
    table = folder / "bids" / "participants.tsv"
    table.write_text(table.read_text().replace("\t64\t", "\t46\t"))
    jobs = planned(folder, "--configfile", folder / "settings.yaml")
    assert (jobs["cohort"], jobs["template"], jobs["fuse"]) == (1, 1, 3)


def test_a_removed_subject_reruns_the_template(folder: Path) -> None:
    table = folder / "bids" / "participants.tsv"
    table.write_text(re.sub("sub-04.*\n", "", table.read_text()))
    jobs = planned(folder, "--configfile", folder / "settings.yaml")
    assert (jobs["cohort"], jobs["affine"], jobs["template"], jobs["fuse"]) == (1, 2, 1, 3)


def test_changed_labels_of_an_atlas_leave_the_template_unchanged(folder: Path) -> None:
    labels = next((folder / "bids" / "derivatives").rglob("sub-06_dseg.nii.gz"))
    nib.Nifti1Image(np.ones((8, 8, 8), np.uint8), np.eye(4)).to_filename(labels)
    assert "template" not in planned(folder, "--configfile", folder / "settings.yaml")


def test_the_resolved_config_is_written_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_command(folder, "mkdir results/report; touch results/report.html", monkeypatch)
    config = write_config(folder, Path("bids"), report={"subjects": 3})
    result = snakemake(folder, "--cores", 1, "--configfile", config)
    assert result.returncode == 0, result.stdout
    assert load_config(folder / "results" / "config.yaml") == load_config(config)


def test_a_job_that_is_killed_for_memory_is_reported_as_such(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_command(folder, "kill -9 $$", monkeypatch)
    config = write_config(folder, Path("bids"), report={"subjects": 3})
    result = snakemake(folder, "--cores", 1, "--configfile", config)
    assert result.returncode != 0
    assert "the job was killed: most likely memory ran out" in result.stdout


def test_a_second_run_on_the_same_output_is_refused(folder: Path) -> None:
    config = write_config(folder, Path("bids"), report={"subjects": 3})
    with lock(load_config(config).model_copy(update={"output": folder / "results"}).layout.lock):
        result = snakemake(folder, "--cores", 1, "--configfile", config)
        assert result.returncode != 0
        assert "results: another run is writing here" in result.stdout
        assert "Traceback" not in result.stdout
        assert planned(folder, "--configfile", config)["report"] == 1, "a dry run is allowed"


def test_results_of_another_config_are_left_unchanged(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (folder / "results").rglob("*") if path.is_file()}
    config = write_config(folder, Path("bids"), template={"steps": 9})
    result = snakemake(folder, "--cores", 1, "--configfile", config)
    assert result.returncode != 0
    assert "template.steps" in result.stdout
    assert "Traceback" not in result.stdout
    after = {path: path.stat().st_mtime_ns for path in (folder / "results").rglob("*") if path.is_file()}
    assert after == before


def test_a_refused_cohort_leaves_the_old_table(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_command(folder, "echo sub-07 has no image >&2; exit 2", monkeypatch)
    with (folder / "bids" / "participants.tsv").open("a") as table:
        table.write("sub-07\ttrain\tyes\t70\tF\t0\t0.7\n")
    result = snakemake(folder, "--cores", 1, "--configfile", folder / "settings.yaml")
    assert result.returncode != 0
    assert "sub-07 has no image" in result.stdout
    assert (folder / "results" / "cohort.tsv").exists()
