"""The workflow's plan: the jobs of a config and a cohort. No stage runs here."""

from __future__ import annotations

from pathlib import Path

import pytest
from dry_runs import ROLES, ROOT, make_cohort, planned, snakemake, write_config

from atlasmith.config import load_config

CONFIGS = [ROOT / "config.yaml", *sorted((ROOT / "examples").glob("*.yaml"))]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configs(path: Path, tmp_path: Path) -> None:
    config = load_config(path)
    bids = make_cohort(tmp_path / "bids", ROLES, config.layout.suffix)
    all_seven, segmented = -(-7 // config.subjects_per_job), 2 + config.fusion.train_subjects
    assert planned(tmp_path, "--configfile", path, "--config", f"cohort={{bids: {bids}}}") == {
        "cohort": 1,
        "preprocess": all_seven,
        "affine_reference": 1,
        "affine": all_seven,
        "template": 1,
        "register": all_seven,
        "template_labels": 1,
        "propagate": segmented,  # atlases too, since the networks of fusion are trained on them
        "fuse_train": 1,
        "fuse": segmented,
        "fuse_quality": 1,
        "score": all_seven,
        "score_summary": 1,
        "report": 1,
        "all": 1,
    }


@pytest.mark.parametrize(
    ("role", "added"),
    [
        ("train", {"preprocess", "affine", "register", "score"}),
        ("target", {"preprocess", "affine", "register", "propagate", "fuse", "score"}),
        ("atlas", {"preprocess", "affine", "register", "propagate", "fuse", "score"}),
    ],
)
def test_one_more_subject_adds_one_job_to_each_stage_of_its_role(
    role: str, added: set[str], tmp_path: Path
) -> None:
    seven = make_cohort(tmp_path / "seven", ROLES)
    eight = make_cohort(tmp_path / "eight", [*ROLES, role])
    before = planned(tmp_path, "--configfile", write_config(tmp_path, seven, subjects_per_job=1))
    after = planned(tmp_path, "--configfile", write_config(tmp_path, eight, subjects_per_job=1))
    difference = {rule: after[rule] - before[rule] for rule in after if after[rule] != before[rule]}
    assert difference == dict.fromkeys(added, 1)


def test_subjects_for_training_are_segmented_where_the_config_asks_for_it(tmp_path: Path) -> None:
    cohort = make_cohort(tmp_path / "cohort", [*ROLES, "train", "train", "train"])
    without = planned(tmp_path, "--configfile", write_config(tmp_path, cohort))
    config = write_config(tmp_path, cohort, fusion={"train_subjects": True, "methods": ["student"]})
    jobs = planned(tmp_path, "--configfile", config)
    more = {"propagate": 2, "fuse": 2}
    assert jobs == {stage: count + more.get(stage, 0) for stage, count in without.items()}


def test_majority_voting_alone_trains_nothing(tmp_path: Path) -> None:
    bids = make_cohort(tmp_path / "bids", ROLES)
    jobs = planned(tmp_path, "--configfile", write_config(tmp_path, bids, fusion={"methods": ["majority"]}))
    assert "fuse_train" not in jobs
    assert jobs["fuse_quality"] == 1 and jobs["fuse"] == 3
    alone = {"methods": ["majority"], "quality": False}
    jobs = planned(tmp_path, "--configfile", write_config(tmp_path, bids, fusion=alone))
    assert "fuse_quality" not in jobs
    assert jobs["propagate"] == jobs["fuse"] == 1


def test_subpopulations_are_found_where_the_config_has_several(tmp_path: Path) -> None:
    bids = make_cohort(tmp_path / "bids", ROLES)
    jobs = planned(tmp_path, "--configfile", write_config(tmp_path, bids, template={"subpopulations": 2}))
    assert jobs["subpopulations"] == 1
    assert "subpopulations" not in planned(tmp_path, "--configfile", write_config(tmp_path, bids))


def test_the_default_config_is_not_merged_into_that_of_the_user(tmp_path: Path) -> None:
    bids = make_cohort(tmp_path / "bids", ROLES)
    (tmp_path / "config.yaml").write_text("nonsense: 1\n")
    assert planned(tmp_path, "--configfile", write_config(tmp_path, bids))["affine"] == 3


def test_a_wrong_key_gives_our_message_alone(tmp_path: Path) -> None:
    bids = make_cohort(tmp_path / "bids", ROLES)
    result = snakemake(tmp_path, "-n", "--configfile", write_config(tmp_path, bids, template={"spacign": 2}))
    assert result.returncode != 0
    assert "config: template.spacign: unknown key 'spacign'. Did you mean 'spacing'?" in result.stdout
    assert "Traceback" not in result.stdout


def test_an_output_that_is_a_file_is_refused(tmp_path: Path) -> None:
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
