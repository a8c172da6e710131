"""New images segmented by the student alone, without registration."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from calibrated import calibrate

from atlasmith.cli.main import main
from atlasmith.config import Config, parse_config
from atlasmith.inference import predict
from atlasmith.io.images import read_grid, read_labels
from atlasmith.io.layout import Layout
from atlasmith.io.tables import read_cohort, read_tsv
from atlasmith.propagation import label_template

STUDENT = {"channels": [8, 16], "steps": 200, "count": 2, "patch": 32}


@pytest.fixture(scope="module")
def finished(toy_registered: Config, tmp_path_factory: pytest.TempPathFactory) -> Config:
    output = tmp_path_factory.mktemp("fast") / "results"
    shutil.copytree(toy_registered.output, output)
    values = toy_registered.resolved()
    values["output"] = str(output)
    values["fusion"] |= {"methods": ["majority", "student"], "student": STUDENT}
    config = parse_config(values)
    config.layout.config.write_text(yaml.safe_dump(values))
    calibrate(config)
    return config


def test_images_are_segmented_without_registration(
    finished: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    targets = [s for s in read_cohort(finished.layout.cohort) if s.role == "target"]
    images = [target.image for target in targets]
    found = predict(finished.output, images, {"age": 45}, tmp_path, fast=True)
    layout = Layout(tmp_path, "Toy", ("T1w",))
    assert not any(x.error or x.reasons for x in found) and all(x.seconds > 0 for x in found)
    dice = []
    for target in targets:
        path = layout.segmentation(target.id, "student")
        assert np.allclose(read_grid(path).affine, read_grid(target.image).affine)
        labels, truth = read_labels(path).data, read_labels(target.labels).data
        assert labels.shape == truth.shape and not layout.segmentation(target.id, "majority").exists()
        assert not layout.forward(target.id).exists()
        for value in (4, 1000):
            both = ((labels == value) & (truth == value)).sum()
            dice.append(2 * both / ((labels == value).sum() + (truth == value).sum()))
    assert np.mean(dice) > 0.8
    rows = read_tsv(layout.predictions)
    assert {row["method"] for row in rows} == {"student"} and len(rows) == 2 * len(targets)
    capsys.readouterr()
    predict(finished.output, images, {"age": 45}, tmp_path, fast=True)
    assert capsys.readouterr().out.count("finished before") == len(targets)


def test_a_run_without_such_a_method_is_refused(
    toy_registered: Config, finished: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = next(s.image for s in read_cohort(finished.layout.cohort) if s.role == "target")
    label_template(toy_registered)
    arguments = ["predict", str(image), "--results", str(toy_registered.output), "--out", str(tmp_path)]
    assert main([*arguments, "--fast"]) == 2
    assert "fusion.methods" in capsys.readouterr().err
