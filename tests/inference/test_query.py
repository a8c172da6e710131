"""Queries of the template of the toy cohort, whose hole has a radius of 4 + 0.05 (age - 50)."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from atlasmith.cli.main import main
from atlasmith.config import Config
from atlasmith.inference import conditional_labels
from atlasmith.io.files import read_json
from atlasmith.io.images import read_image, read_labels
from atlasmith.io.layout import Layout
from atlasmith.io.tables import read_tsv
from atlasmith.propagation import label_template


@pytest.fixture(scope="module")
def finished(toy_registered: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("query") / "results"
    shutil.copytree(toy_registered.output, folder)
    label_template(toy_registered.model_copy(update={"output": folder}))
    return folder


def query(results: Path, out: Path, *assignments: str) -> int:
    settings = [word for assignment in assignments for word in ("--set", assignment)]
    return main(["template", "query", "--results", str(results), "--out", str(out), *settings])


@pytest.fixture(scope="module")
def outputs(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Layout]:
    found = {}
    for age in (35, 65):
        out = tmp_path_factory.mktemp("query_output") / "out"
        assert query(finished, out, f"age={age}") == 0
        found[age] = Layout(out, "Toy", ("T1w",))
    return found


def planted(age: float) -> float:
    return (4 + 0.05 * (age - 50)) ** 2


def test_labels_and_image_follow_the_covariate(outputs: dict[int, Layout]) -> None:
    holes = {age: read_labels(layout.template_labels).data == 1000 for age, layout in outputs.items()}
    ratio = holes[65].sum() / holes[35].sum()
    assert 1 + 0.7 * (planted(65) / planted(35) - 1) < ratio < 1 + 1.3 * (planted(65) / planted(35) - 1)
    for age, layout in outputs.items():
        image = read_image(layout.template_image)
        ring = read_labels(layout.template_labels).data == 4
        assert image.data[holes[age]].mean() < 0.7 * image.data[ring].mean()
        probabilities = read_image(layout.template_probabilities).data
        assert probabilities.shape == (*image.grid.shape, 2)
        assert probabilities.min() >= 0 and probabilities.max() <= 1.001
        assert read_json(layout.template_image.parent / "query.json")["covariates"] == {"age": float(age)}


def test_labels_may_be_warped_one_by_one(
    finished: Path, outputs: dict[int, Layout], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conditional_labels, "GROUP", 1)
    assert query(finished, tmp_path / "out", "age=35") == 0
    for path in outputs[35].output.rglob("*.nii.gz"):
        assert (tmp_path / "out" / path.relative_to(outputs[35].output)).read_bytes() == path.read_bytes()


def test_rate_is_that_of_the_planted_change(outputs: dict[int, Layout]) -> None:
    layout = outputs[65]
    rate = read_image(layout.of_template("res-1_desc-agerate", "jacobian")).data
    hole = read_labels(layout.template_labels).data == 1000
    # d log(r^2) / d age at 50 years: a flow has one rate for all ages.
    assert rate[hole].mean() == pytest.approx(2 * 0.05 / 4, rel=0.4)


def test_spread_is_large_where_subjects_differ(outputs: dict[int, Layout]) -> None:
    layout = outputs[35]
    spread = read_image(layout.of_template("res-1_desc-spread", "T1w")).data
    ring = read_labels(layout.template_labels).data == 4
    background = read_image(layout.template_image).data < 0.02
    assert spread[ring].mean() > 2 * spread[background].mean()


def test_volumes_rise_with_age_in_template_and_cohort(outputs: dict[int, Layout]) -> None:
    rows = [r for r in read_tsv(outputs[35].template_image.parent / "volumes.tsv") if r["label"] == "1000"]
    assert len(rows) == 9 and {row["covariate"] for row in rows} == {"age"}
    ages, template, cohort, low, high = (
        np.array([float(row[key]) for row in rows])
        for key in ("value", "template_mm3", "cohort_mm3", "cohort_ci95_low", "cohort_ci95_high")
    )
    assert (np.diff(template) > 0).all()
    assert ((low <= cohort) & (cohort <= high)).all()
    ratio = (cohort[-1] / cohort[0] - 1) / (planted(ages[-1]) / planted(ages[0]) - 1)
    assert 0.5 < ratio < 1.5


def test_problems_are_printed(
    finished: Path, outputs: dict[int, Layout], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert query(finished, tmp_path / "a", "age=old", "agee=3") == 2
    error = capsys.readouterr().err
    assert "age is 'old', no number" in error and "Did you mean 'age'?" in error
    assert query(finished, outputs[35].output, "age=35") == 2
    assert "exists already" in capsys.readouterr().err
    assert query(tmp_path / "nowhere", tmp_path / "b") == 2
    assert query(finished, tmp_path / "c", "age=150") == 2
    assert "age 150 is far outside the cohort's range" in capsys.readouterr().err
    assert not (tmp_path / "c").exists()
    for name, arguments in (("d", ["--set", "age=70"]), ("e", ["--set", "age=150", "--extrapolate"])):
        arguments += ["--results", str(finished), "--out", str(tmp_path / name)]
        assert main(["template", "query", *arguments]) == 0
        assert "outside the cohort's range" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        main(["template", "query", "--out", str(tmp_path / "f")])
    assert "--results" in capsys.readouterr().err
