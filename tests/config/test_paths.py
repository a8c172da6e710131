"""Paths of the config and of the command line may have ~ and environment variables."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import Tiny

from atlasmith.cli.main import main
from atlasmith.config import load_config, parse_config
from atlasmith.core.errors import InputError


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("STUDY", str(tmp_path / "study"))
    monkeypatch.delenv("NOWHERE", raising=False)


def test_every_path_of_the_config_is_expanded(tmp_path: Path) -> None:
    cohort = {"bids": "$STUDY/bids", "labels": "${STUDY}/labels", "masks": "~/masks", "exclude": "lesions"}
    config = parse_config({"output": "~/results", "cohort": cohort})
    assert config.output == tmp_path / "home/results"
    assert config.cohort.bids == tmp_path / "study/bids"
    assert config.cohort.labels == str(tmp_path / "study/labels")
    assert config.cohort.masks == str(tmp_path / "home/masks")
    assert config.cohort.exclude == "lesions"
    assert parse_config(config.resolved()) == config


@pytest.mark.parametrize("key", ["output", "cohort.bids", "cohort.labels", "cohort.masks", "cohort.exclude"])
def test_an_unknown_variable_is_refused_by_name(key: str) -> None:
    cohort = {"bids": "bids", **({key.removeprefix("cohort."): "$NOWHERE/x"} if "." in key else {})}
    with pytest.raises(InputError) as caught:
        parse_config({"cohort": cohort} | ({} if "." in key else {key: "$NOWHERE/x"}))
    assert len(caught.value.problems) == 1
    assert key in str(caught.value)
    assert "the environment variable NOWHERE isn't set" in str(caught.value)


def test_the_command_line_and_the_output_folder(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny.bids.parent
    monkeypatch.chdir(folder)
    (folder / "home").mkdir()
    text = f"output: ~/results\ncohort: {{bids: {tiny.bids}, covariates: [age]}}\ntemplate: {{spacing: 2}}\n"
    (folder / "home" / "my.yaml").write_text(text)
    assert main(["cohort", "--config", "~/my.yaml"]) == 0
    assert not (folder / "~").exists()
    assert load_config(folder / "home/results/config.yaml").output == folder / "home/results"


def test_an_unknown_variable_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cohort", "--config", "$NOWHERE/my.yaml"]) == 2
    assert "--config $NOWHERE/my.yaml: the environment variable NOWHERE isn't set" in capsys.readouterr().err
