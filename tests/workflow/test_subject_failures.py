"""One subject's failure: it is recorded, and the workflow goes on without the subject."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
from dry_runs import ROLES, make_cohort, planned, snakemake, write_config
from tiny import Tiny

import atlasmith.preprocess
import atlasmith.registration
from atlasmith.cli import main
from atlasmith.cohort import read_participants, write_checked_cohort
from atlasmith.config import Config, load_config, parse_config
from atlasmith.core.errors import AtlasmithError
from atlasmith.io.failures import Failure, read_failures, write_failure
from atlasmith.workflow.failures import (
    check_remaining,
    current_failures,
    failure_inputs,
    forget_failures,
    row_text,
)


def rows(config: Config) -> dict[str, str]:
    return {participant.id: row_text(participant) for participant in read_participants(config)}


def preprocess_failing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> list[str]:
    """Let the stage fail for sub-02; returns the subjects that get through."""
    done: list[str] = []

    def preprocess(config: Config, subject: str) -> None:
        if subject == "02":
            raise error
        done.append(subject)

    monkeypatch.setattr(atlasmith.preprocess, "preprocess_subject", preprocess)
    return done


@pytest.fixture
def config_path(tiny: Tiny) -> str:
    config = tiny.config()
    write_checked_cohort(config)
    return str(config.layout.config)


def run_preprocess(config_path: str, *options: str) -> int:
    return main(["preprocess", "--config", config_path, "--subjects", "01", "02", "03", *options])


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (AtlasmithError("this image is upside down. Turn it."), "this image is upside down. Turn it."),
        (FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "x.nii"), "x.nii: No such file"),
        (ValueError("a bug"), "unexpected ValueError: a bug"),
    ],
    ids=["ours", "the system's", "a bug"],
)
def test_the_others_of_a_job_go_on(
    error: Exception, message: str, config_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = preprocess_failing(monkeypatch, error)
    assert run_preprocess(config_path, "--record-failures") == 2
    assert done == ["01", "03"]
    (failure,) = read_failures(load_config(config_path).layout.failures).values()
    assert (failure.subject, failure.stage) == ("02", "preprocess")
    assert failure.message.startswith(message)


def test_register_goes_on_too(config_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def register(config: Config, subjects: list[str], attempt: object) -> None:
        for subject in subjects:
            with attempt(subject):  # type: ignore[operator]
                if subject == "02":
                    raise AtlasmithError("it lies elsewhere")

    monkeypatch.setattr(atlasmith.registration, "register_subjects", register)
    assert main(["register", "--config", config_path, "--subjects", "01", "02", "--record-failures"]) == 2
    assert read_failures(load_config(config_path).layout.failures)["02"].message == "it lies elsewhere"


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), MemoryError()])
def test_a_fault_of_the_machine_is_no_failure_of_the_subject(
    error: Exception, config_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    preprocess_failing(monkeypatch, error)
    assert run_preprocess(config_path, "--record-failures") == 2
    assert read_failures(load_config(config_path).layout.failures) == {}


def test_by_hand_the_first_failure_ends_the_command(
    config_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = preprocess_failing(monkeypatch, AtlasmithError("no"))
    assert run_preprocess(config_path) == 2
    assert done == ["01"]
    assert read_failures(load_config(config_path).layout.failures) == {}


def test_a_failure_counts_until_the_subject_changes(
    tiny: Tiny, config_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    preprocess_failing(monkeypatch, AtlasmithError("no"))
    run_preprocess(config_path, "--record-failures")
    config = load_config(config_path)
    assert set(current_failures(config, rows(config))) == {"02"}
    assert set(current_failures(tiny.config(score={"bootstrap": 9}), rows(config))) == {"02"}
    assert current_failures(tiny.config(preprocess={"n4": True}), rows(config)) == {}
    tiny.rows[0]["age"] = "62"  # of sub-02
    tiny.write_table()
    assert current_failures(config, rows(config)) == {}
    tiny.rows[0]["age"] = "61"
    tiny.write_table()
    assert set(current_failures(config, rows(config))) == {"02"}
    tiny.change(tiny.image("sub-02"), lambda data: data + 1)
    assert current_failures(config, rows(config)) == {}
    forget_failures(config, but=["02"])
    assert set(read_failures(config.layout.failures)) == {"02"}
    forget_failures(config)
    assert read_failures(config.layout.failures) == {}


def test_too_few_subjects_are_an_error_that_names_the_failures(tiny: Tiny) -> None:
    config = tiny.config(fusion={"methods": ["majority"]})
    participants = read_participants(config)

    def failing(*names: str, stage: str = "propagate") -> dict[str, Failure]:
        return {name: Failure(name, stage, f"reason {name}") for name in names}

    check_remaining(config, participants, failing("01"))
    with pytest.raises(AtlasmithError, match=r"too few atlases are left: 0 of 2(.|\n)*sub-01.*reason 01"):
        check_remaining(config, participants, failing("01", "02"))
    with pytest.raises(AtlasmithError, match="too few targets are left: 0 of 1"):
        check_remaining(config, participants, failing("03"))
    check_remaining(config, participants, failing("03", stage="score"))
    with pytest.raises(AtlasmithError, match="too few subjects for the template are left: 1 of 4"):
        check_remaining(config, participants, failing("01", "02", "04", stage="affine"))
    with pytest.raises(AtlasmithError, match="too few atlases are left: 1 of 2, and 2 or more"):
        check_remaining(tiny.config(), participants, failing("01"))  # trains a network


@pytest.fixture
def plan_folder(tmp_path: Path) -> Path:
    write_config(tmp_path, make_cohort(tmp_path / "bids", ROLES), subjects_per_job=3)
    return tmp_path


def record(folder: Path, subject: str, stage: str, **changed: object) -> None:
    config = parse_config({**json.loads(json.dumps(load_values(folder))), "output": str(folder / "results")})
    inputs = failure_inputs(config, stage, rows(config)[subject], [])
    write_failure(config.layout.failures, Failure(subject, stage, "no", inputs | changed))


def load_values(folder: Path) -> dict[str, object]:
    return load_config(folder / "settings.yaml").resolved()


def outputs(folder: Path) -> list[str]:
    """Base names of all files that a run would write."""
    arguments = ("--dry-run", "--forceall", "--configfile", folder / "settings.yaml")
    text = snakemake(folder, *arguments).stdout
    assert "Job stats" in text, text
    lines = [line for line in text.splitlines() if line.startswith("    output: ")]
    return [Path(name.strip()).name for line in lines for name in line.split(",")]


def test_the_plan_has_no_further_stage_of_a_subject_that_failed(plan_folder: Path) -> None:
    complete = outputs(plan_folder)
    record(plan_folder, "05", "propagate")  # a target
    left = outputs(plan_folder)
    gone = set(complete) - set(left)
    assert gone and all(name.startswith("sub-05_") for name in gone)
    assert "sub-05_from-T1w_to-Template_mode-image_xfm.h5" in left
    assert not any(
        name in left for name in ("sub-05_scores.tsv", "sub-05_space-T1w_desc-majority_dseg.nii.gz")
    )


def test_a_failed_atlas_leaves_the_jobs_of_others_as_they_were(plan_folder: Path) -> None:
    arguments = ("--configfile", plan_folder / "settings.yaml")
    before = planned(plan_folder, *arguments)
    record(plan_folder, "01", "affine")
    assert planned(plan_folder, *arguments) == before
    left = outputs(plan_folder)
    assert "sub-01_desc-preproc_T1w.nii.gz" in left and "sub-01_scores.tsv" not in left


def test_a_failure_of_another_version_is_tried_again(plan_folder: Path) -> None:
    record(plan_folder, "05", "propagate", version="0.0.1")
    assert "sub-05_scores.tsv" in outputs(plan_folder)


def test_snakemake_refuses_to_go_on_with_too_few(plan_folder: Path) -> None:
    record(plan_folder, "02", "fuse")
    record(plan_folder, "05", "fuse")
    result = snakemake(plan_folder, "--dry-run", "--configfile", plan_folder / "settings.yaml")
    assert result.returncode != 0 and "too few targets are left: 0 of 2" in result.stdout
