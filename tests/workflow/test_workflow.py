"""The workflow's plan: which jobs there are, and which run again after a change. No stage runs here."""

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
import yaml

from atlasmith.config import load_config
from atlasmith.io.files import lock

ROOT = Path(__file__).parents[2]
CONFIGS = [ROOT / "config.yaml", *sorted((ROOT / "examples").glob("*.yaml"))]
ROLES = ["atlas", "atlas", "target", "atlas", "train", "target", "atlas"]


def write_image(path: Path, labels: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = np.arange(512).reshape(8, 8, 8) % (2 if labels else 100)
    nib.Nifti1Image(data.astype(np.uint8), np.eye(4)).to_filename(path)


def make_cohort(folder: Path, roles: list[str]) -> Path:
    folder.mkdir()
    columns = ["participant_id", "role", "builder", "age", "sex", "cdr", "nwbv"]
    (folder / "participants.tsv").write_text("\t".join(columns) + "\n")
    for index, role in enumerate(roles):
        join(folder, index, role, "yes")
    return folder


def join(folder: Path, index: int, role: str, builder: str) -> None:
    """One more subject of a cohort in `folder`."""
    name = f"sub-{index:02d}"
    write_image(folder / name / "anat" / f"{name}_T1w.nii.gz", labels=False)
    if role != "train":
        write_image(folder / "derivatives/manual" / name / "anat" / f"{name}_dseg.nii.gz", labels=True)
    with (folder / "participants.tsv").open("a") as table:
        values = [name, role, builder, 60 + index, "FM"[index % 2], 0.5, 0.7 + index / 100]
        table.write("\t".join(map(str, values)) + "\n")


def snakemake(directory: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Snakemake in `directory`; its messages and output are in stdout."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", ROOT / "Snakefile", "--directory", directory]
    return subprocess.run(
        [*map(str, [*command, *arguments])],
        cwd=directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def planned(directory: Path, *arguments: object) -> dict[str, int]:
    """The number of jobs of each rule in a dry run; a stage's chunks count as one rule."""
    result = snakemake(directory, "--dry-run", *arguments)
    assert result.returncode == 0, result.stdout
    jobs: dict[str, int] = {}
    table = result.stdout.partition("Job stats:")[2].partition("total")[0]
    for rule, count in re.findall(r"^(\w+) +(\d+)$", table, flags=re.MULTILINE):
        name = re.sub(r"_(?:atlases_|targets_)?\d+$", "", rule)
        jobs[name] = jobs.get(name, 0) + int(count)
    return jobs


def write_config(folder: Path, bids: Path, **sections: object) -> Path:
    path = folder / "my.yaml"
    cohort = {"bids": str(bids), "template_subjects": "builder", "covariates": ["age"]}
    path.write_text(yaml.safe_dump({"cohort": cohort, "subjects_per_job": 3, **sections}))
    return path


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configs(path: Path, tmp_path: Path) -> None:
    bids = make_cohort(tmp_path / "bids", ROLES)
    all_seven = -(-7 // load_config(path).chunk)
    assert planned(tmp_path, "--configfile", path, "--config", f"cohort={{bids: {bids}}}") == {
        "cohort": 1,
        "affine_reference": 1,
        "affine": all_seven,
        "template": 1,
        "register": all_seven,
        "template_labels": 1,
        "propagate": 2,  # atlases too, since the networks of fusion learn from them
        "fuse_train": 1,
        "fuse": 2,
        "fuse_quality": 1,
        "score": all_seven,
        "score_summary": 1,
        "report": 1,
        "all": 1,
    }


@pytest.mark.parametrize(
    ("role", "more"),
    [
        ("train", {"affine": 1, "register": 1, "score": 1}),
        ("target", {"affine": 1, "register": 1, "propagate": 1, "fuse": 1, "score": 1}),
        ("atlas", {"affine": 1, "register": 1, "propagate": 1, "fuse": 1, "score": 1}),
    ],
)
def test_one_more_subject_is_that_subjects_jobs(role: str, more: dict[str, int], tmp_path: Path) -> None:
    seven = make_cohort(tmp_path / "seven", ROLES)
    eight = make_cohort(tmp_path / "eight", [*ROLES, role])
    before = planned(tmp_path, "--configfile", write_config(tmp_path, seven, chunk=1))
    after = planned(tmp_path, "--configfile", write_config(tmp_path, eight, chunk=1))
    assert {rule: after[rule] - before[rule] for rule in after if after[rule] != before[rule]} == more


def test_a_vote_alone_trains_nothing(tmp_path: Path) -> None:
    bids = make_cohort(tmp_path / "bids", ROLES)
    jobs = planned(tmp_path, "--configfile", write_config(tmp_path, bids, fusion={"methods": ["majority"]}))
    assert "fuse_train" not in jobs
    assert jobs["fuse_quality"] == 1 and jobs["fuse"] == 3
    alone = {"methods": ["majority"], "quality": False}
    jobs = planned(tmp_path, "--configfile", write_config(tmp_path, bids, fusion=alone))
    assert "fuse_quality" not in jobs
    assert jobs["propagate"] == jobs["fuse"] == 1


def test_populations_are_told_apart_where_asked(tmp_path: Path) -> None:
    bids = make_cohort(tmp_path / "bids", ROLES)
    jobs = planned(tmp_path, "--configfile", write_config(tmp_path, bids, template={"subpopulations": 2}))
    assert jobs["subpopulations"] == 1
    assert "subpopulations" not in planned(tmp_path, "--configfile", write_config(tmp_path, bids))


def test_the_default_config_doesnt_leak_into_the_users(tmp_path: Path) -> None:
    bids = make_cohort(tmp_path / "bids", ROLES)
    (tmp_path / "config.yaml").write_text("nonsense: 1\n")
    assert planned(tmp_path, "--configfile", write_config(tmp_path, bids))["affine"] == 3


def test_a_wrong_key_is_our_message_alone(tmp_path: Path) -> None:
    bids = make_cohort(tmp_path / "bids", ROLES)
    result = snakemake(tmp_path, "-n", "--configfile", write_config(tmp_path, bids, template={"spacign": 2}))
    assert result.returncode != 0
    assert "config: template.spacign: unknown key 'spacign'. Did you mean 'spacing'?" in result.stdout
    assert "Traceback" not in result.stdout


def test_an_output_that_is_a_file_is_named(tmp_path: Path) -> None:
    bids = make_cohort(tmp_path / "bids", ROLES)
    (tmp_path / "results").write_text("mine")
    result = snakemake(tmp_path, "--cores", 1, "--configfile", write_config(tmp_path, bids))
    assert result.returncode != 0
    assert "results: this is a file" in result.stdout
    assert "Traceback" not in result.stdout and (tmp_path / "results").read_text() == "mine"


def test_lint(tmp_path: Path) -> None:
    bids = make_cohort(tmp_path / "bids", ROLES)
    result = snakemake(tmp_path, "--lint", "--configfile", write_config(tmp_path, bids))
    assert result.returncode == 0, result.stdout
    assert "Lints for" not in result.stdout


def finished(folder: Path) -> Path:
    """A config in `folder`, with a cohort and every output there, as if a run had just ended."""
    make_cohort(folder / "bids", ROLES)
    config = write_config(folder, Path("bids"))
    cohort = [sys.executable, "-m", "atlasmith.cli", "cohort", "--config", config]
    subprocess.run(cohort, cwd=folder, check=True)
    rows = snakemake(folder, "--summary", "--configfile", config).stdout
    for name in re.findall(r"^(results/\S+)\t", rows, flags=re.MULTILINE):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    touched = snakemake(folder, "--touch", "--forceall", "--cores", 1, "--configfile", config)
    assert touched.returncode == 0, touched.stdout
    for name in (folder / "results").rglob("*desc-propagated_T1w.nii.gz"):
        name.unlink()  # temporary
    return config


def stand_in(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let jobs run `script` in place of atlasmith."""
    (folder / "bin").mkdir()
    (folder / "bin" / "atlasmith").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "bin" / "atlasmith").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")


FUSION = {"propagate", "fuse_train", "fuse", "fuse_quality", "score", "score_summary", "report"}


class TestAfterAFinishedRun:
    @pytest.fixture(scope="class")
    def original(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        folder = tmp_path_factory.mktemp("finished")
        finished(folder)
        return folder

    @pytest.fixture
    def folder(self, original: Path, tmp_path: Path) -> Path:
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
        ids=["nothing", "report", "score", "autocontext", "fewer atlases"],
    )
    def test_a_changed_section_reruns_what_reads_it(
        self, sections: dict[str, object], rules: set[str], folder: Path
    ) -> None:
        config = write_config(folder, Path("bids"), **sections)
        assert set(planned(folder, "--configfile", config)) - {"all"} == rules

    def test_labels_of_a_target_concern_the_score_alone(self, folder: Path) -> None:
        labels = next((folder / "bids" / "derivatives").rglob("sub-02_dseg.nii.gz"))
        nib.Nifti1Image(np.ones((8, 8, 8), np.uint8), np.eye(4)).to_filename(labels)
        jobs = planned(folder, "--configfile", folder / "my.yaml")
        assert jobs == {"score": 1, "score_summary": 1, "report": 1, "all": 1}

    def test_another_image_concerns_everyone(self, folder: Path) -> None:
        write_image(folder / "bids" / "sub-04" / "anat" / "sub-04_T1w.nii.gz", labels=True)
        jobs = planned(folder, "--configfile", folder / "my.yaml")
        assert (jobs["cohort"], jobs["affine"], jobs["template"], jobs["fuse"]) == (1, 3, 1, 3)

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
                    "score": 3,
                },
            ),
        ],
    )
    def test_who_joins_later_leaves_the_template_alone(
        self, role: str, jobs: dict[str, int], folder: Path
    ) -> None:
        join(folder / "bids", 7, role, "no")
        own = ["cohort", "affine", "register", "score", "score_summary", "report", "all"]
        assert planned(folder, "--configfile", folder / "my.yaml") == dict.fromkeys(own, 1) | jobs

    def test_who_joins_in_making_the_template_changes_it(self, folder: Path) -> None:
        join(folder / "bids", 7, "train", "yes")
        jobs = planned(folder, "--configfile", folder / "my.yaml")
        assert (jobs["affine"], jobs["template"], jobs["register"]) == (3, 1, 3)

    def test_a_corrected_covariate_concerns_everyone(self, folder: Path) -> None:
        table = folder / "bids" / "participants.tsv"
        table.write_text(table.read_text().replace("\t64\t", "\t46\t"))
        jobs = planned(folder, "--configfile", folder / "my.yaml")
        assert (jobs["cohort"], jobs["template"], jobs["fuse"]) == (1, 1, 3)

    def test_who_leaves_leaves_the_template_too(self, folder: Path) -> None:
        table = folder / "bids" / "participants.tsv"
        table.write_text(re.sub("sub-04.*\n", "", table.read_text()))
        jobs = planned(folder, "--configfile", folder / "my.yaml")
        assert (jobs["cohort"], jobs["affine"], jobs["template"], jobs["fuse"]) == (1, 2, 1, 3)

    def test_other_labels_of_an_atlas_leave_the_template_alone(self, folder: Path) -> None:
        labels = next((folder / "bids" / "derivatives").rglob("sub-06_dseg.nii.gz"))
        nib.Nifti1Image(np.ones((8, 8, 8), np.uint8), np.eye(4)).to_filename(labels)
        assert "template" not in planned(folder, "--configfile", folder / "my.yaml")

    def test_the_plan_is_renewed(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        stand_in(folder, "touch results/report.html", monkeypatch)
        config = write_config(folder, Path("bids"), report={"subjects": 3})
        result = snakemake(folder, "--cores", 1, "--configfile", config)
        assert result.returncode == 0, result.stdout
        assert load_config(folder / "results" / "config.yaml") == load_config(config)

    def test_a_job_that_is_killed_for_memory_says_so(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stand_in(folder, "kill -9 $$", monkeypatch)
        config = write_config(folder, Path("bids"), report={"subjects": 3})
        result = snakemake(folder, "--cores", 1, "--configfile", config)
        assert result.returncode != 0
        assert "the job was killed: most likely memory ran out" in result.stdout

    def test_a_second_run_on_the_same_output_is_refused(self, folder: Path) -> None:
        config = write_config(folder, Path("bids"), report={"subjects": 3})
        with lock(load_config(config).model_copy(update={"output": folder / "results"}).layout.lock):
            result = snakemake(folder, "--cores", 1, "--configfile", config)
            assert result.returncode != 0
            assert "results: another run is writing here" in result.stdout
            assert "Traceback" not in result.stdout
            assert planned(folder, "--configfile", config)["report"] == 1, "looking is allowed"

    def test_results_of_another_config_are_left_alone(self, folder: Path) -> None:
        before = {path: path.stat().st_mtime_ns for path in (folder / "results").rglob("*") if path.is_file()}
        config = write_config(folder, Path("bids"), template={"steps": 9})
        result = snakemake(folder, "--cores", 1, "--configfile", config)
        assert result.returncode != 0
        assert "template.steps" in result.stdout
        assert "Traceback" not in result.stdout
        after = {path: path.stat().st_mtime_ns for path in (folder / "results").rglob("*") if path.is_file()}
        assert after == before

    def test_a_refused_cohort_leaves_the_old_table(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stand_in(folder, "echo sub-07 has no image >&2; exit 2", monkeypatch)
        with (folder / "bids" / "participants.tsv").open("a") as table:
            table.write("sub-07\ttrain\tyes\t70\tF\t0\t0.7\n")
        result = snakemake(folder, "--cores", 1, "--configfile", folder / "my.yaml")
        assert result.returncode != 0
        assert "sub-07 has no image" in result.stdout
        assert (folder / "results" / "cohort.tsv").exists()
