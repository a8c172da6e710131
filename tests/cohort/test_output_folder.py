"""Results are written to a folder of their own."""

from __future__ import annotations

import os

import pytest
import yaml
from tiny import Tiny, only

from atlasmith.cohort import (
    write_checked_cohort,
)
from atlasmith.config import load_config
from atlasmith.io.files import write_json


def test_the_results_of_another_config_are_not_overwritten(tiny: Tiny) -> None:
    write_checked_cohort(tiny.config())
    before = (tiny.output / "config.yaml").read_bytes()
    changes = {"seed": 3, "template": {"spacing": 3.0, "similarity": {"mse": {"weight": 2.0}}}}
    problems = tiny.problems(**changes)
    assert [problem.split(": ")[1] for problem in problems] == [
        "seed",
        "template.similarity.lncc.weight",
        "template.similarity.lncc.window",
        "template.similarity.mse.weight",
        "template.spacing",
    ]
    assert "2.0" in problems[-1] and "3.0" in problems[-1] and "another `output`" in problems[-1]
    assert (tiny.output / "config.yaml").read_bytes() == before


def test_settings_of_later_stages_may_change(tiny: Tiny) -> None:
    write_checked_cohort(tiny.config())
    changed = tiny.config(fusion={"methods": ["majority"]}, device="cpu")
    write_checked_cohort(changed)
    assert load_config(changed.layout.config) == changed


def test_the_cohort_is_the_same_however_its_path_is_written(tiny: Tiny) -> None:
    config = tiny.config()
    write_checked_cohort(config)
    relative = tiny.config(cohort={"bids": os.path.relpath(config.cohort.bids)})
    assert not relative.cohort.bids.is_absolute() and relative.digest("cohort") == config.digest("cohort")
    write_checked_cohort(relative)


@pytest.mark.parametrize("text", ["a: [", "learning_rate: 3\n", ""])
def test_a_config_of_another_program(tiny: Tiny, text: str) -> None:
    tiny.output.mkdir()
    (tiny.output / "config.yaml").write_text(text)
    only(tiny.problems(), tiny.output / "config.yaml", "no config of atlasmith")
    assert (tiny.output / "config.yaml").read_text() == text


def test_a_folder_of_another_program(tiny: Tiny) -> None:
    tiny.output.mkdir()
    (tiny.output / "thesis.docx").write_text("x")
    only(tiny.problems(), tiny.output, "thesis.docx", "nothing was overwritten")
    write_json(tiny.output / "dataset_description.json", {"GeneratedBy": [{"Name": "fmriprep"}]})
    only(tiny.problems(), tiny.output, "thesis.docx")


def test_a_users_own_config_is_not_overwritten(tiny: Tiny) -> None:
    tiny.output.mkdir()
    (tiny.output / "config.yaml").write_text(yaml.safe_dump(tiny.config().resolved()))
    only(tiny.problems(), tiny.output, "config.yaml")


def test_an_output_that_is_a_file(tiny: Tiny) -> None:
    tiny.output.write_text("x")
    only(tiny.problems(), tiny.output, "this is a file")


def test_logs_and_hidden_files_may_be_there(tiny: Tiny) -> None:
    for name in ("logs/cohort", ".snakemake"):
        (tiny.output / name).mkdir(parents=True)
    write_checked_cohort(tiny.config())
    # Snakemake deletes a rule's outputs before the rule runs again.
    (tiny.output / "config.yaml").unlink()
    write_checked_cohort(tiny.config())
