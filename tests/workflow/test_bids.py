"""The output of a run is a valid BIDS derivative, and can be read on another machine."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from small_run import make_small_run
from validator import errors, find_issues

from atlasmith.cli.main import main
from atlasmith.io.columns import COLUMNS
from atlasmith.io.files import read_json, write_json
from atlasmith.io.layout import sidecar_path
from atlasmith.io.tables import read_tsv

# Authors may be few; the template at some covariates inherits, and replaces, the sidecar of the template;
# a fourth axis of labels has no unit of time; a table of labels stands for many images.
KNOWN_WARNINGS = {
    ("TOO_FEW_AUTHORS", None),
    ("SIDECAR_FIELD_OVERRIDE", "Description"),
    ("SIDECAR_FIELD_OVERRIDE", "Sources"),
    ("NIFTI_UNIT", None),
    ("SIDECAR_KEY_RECOMMENDED", "Description"),
    ("SIDECAR_KEY_RECOMMENDED", "SpatialReference"),
}
DESCRIPTION = {
    "Name": "Discs",
    "BIDSVersion": "1.11.1",
    "License": "CC0",
    "Authors": ["A. Author", "B. Author", "C. Author"],
    "DatasetDOI": "doi:10.0000/discs",
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a cohort in `bids` and a run of every stage in `results`."""
    folder = tmp_path_factory.mktemp("run")
    path = make_small_run(folder)
    write_json(folder / "bids" / "dataset_description.json", DESCRIPTION)
    values = yaml.safe_load(path.read_text())
    values |= {"output": str(folder / "results")}
    values["cohort"] |= {"bids": str(folder / "bids")}
    values["template"] |= {"steps": 4, "refinement": {"rounds": 1, "steps": 2}}
    values["fusion"] = {"methods": ["majority"], "uncertainty": True}
    path.write_text(yaml.safe_dump(values))
    ids = [f"{index:02d}" for index in range(6)]
    for verb, subjects in (
        ("cohort", []),
        ("preprocess", ids),
        ("affine-reference", []),
        ("affine", ids),
        ("template", []),
        ("register", ids),
        ("template-labels", []),
        ("propagate", ids[:5]),
        ("fuse", ids[:4]),
        ("fuse-quality", []),
        ("fuse", ids[4:5]),
        ("score", ids),
        ("score-summary", []),
        ("report", []),
    ):
        chosen = ["--subjects", *subjects] if subjects else []
        assert main([verb, "--config", str(path), *chosen]) == 0
    return folder


def test_the_validator_finds_no_error_and_no_new_warning(run: Path) -> None:
    issues = find_issues(run / "results")
    assert errors(issues) == []
    assert {(issue["code"], issue.get("subCode")) for issue in issues} <= KNOWN_WARNINGS


def test_the_output_has_the_license_and_the_authors_of_the_cohort(run: Path) -> None:
    description = read_json(run / "results" / "dataset_description.json")
    assert description["License"] == "CC0" and description["Authors"] == DESCRIPTION["Authors"]
    assert description["SourceDatasets"] == [{"DOI": "doi:10.0000/discs"}]
    assert description["DatasetLinks"] == {"raw": "../bids"}
    template = read_json(run / "results" / "tpl-Small" / "template_description.json")
    assert template["License"] == "CC0" and template["Authors"] == DESCRIPTION["Authors"]


def test_a_readme_that_was_edited_is_kept(run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(run / "results", tmp_path / "results")
    (folder / "README.md").write_text("mine")
    config = yaml.safe_load((folder / "config.yaml").read_text()) | {"output": str(folder)}
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(config))
    assert main(["cohort", "--config", str(tmp_path / "again.yaml")]) == 0
    assert (folder / "README.md").read_text() == "mine"


def test_each_image_has_a_sidecar_whose_sources_exist(run: Path) -> None:
    datasets = {"": run / "results", "raw": run / "bids"}
    images = sorted((run / "results").rglob("*.nii.gz"))
    assert len(images) > 40
    for image in images:
        known = read_json(sidecar_path(image))
        assert known["Description"] and known["Resolution"].endswith(" mm")
        assert ("SkullStripped" in known) == image.name.endswith("_T1w.nii.gz")
        assert known["Sources"]
        for uri in [known["SpatialReference"], *known["Sources"]]:
            _, dataset, path = uri.split(":")
            assert (datasets[dataset] / path).exists(), (image, uri)


def test_each_column_of_each_table_is_described(run: Path) -> None:
    tables = sorted((run / "results").rglob("*.tsv"))
    assert len(tables) > 20
    for table in tables:
        columns = set(table.read_text().splitlines()[0].split("\t"))
        if table.name == "template_training.tsv":
            columns = {"step", "loss"}  # the others are terms of the objective
        assert columns - {"age"} <= set(COLUMNS), table
        if not table.name.endswith("dseg.tsv"):
            assert set(read_json(sidecar_path(table))) == columns & set(COLUMNS)


def test_labels_have_names_and_colors(run: Path) -> None:
    table = read_tsv(run / "results" / "dseg.tsv")
    assert [(row["index"], row["color"]) for row in table] == [("4", "#e6194b"), ("1000", "#3cb44b")]
    assert read_tsv(run / "results/tpl-Small/tpl-Small_res-1_desc-atlases_dseg.tsv") == table


def test_no_sidecar_names_an_absolute_path(run: Path) -> None:
    for path in (run / "results").rglob("*.json"):
        assert str(run) not in json.dumps(read_json(path)), path


def test_predictions_are_a_valid_derivative(run: Path, tmp_path: Path) -> None:
    image = run / "bids" / "sub-05" / "anat" / "sub-05_T1w.nii.gz"
    arguments = ["--results", run / "results", "--out", tmp_path / "new", "--set", "age=60", image]
    assert main(["predict", *map(str, arguments)]) == 0
    assert errors(find_issues(tmp_path / "new")) == []
    for sidecar in (tmp_path / "new" / "sub-05").rglob("*_dseg.json"):
        for uri in (name for name in read_json(sidecar)["Sources"] if name.startswith("bids::sub")):
            assert (tmp_path / "new" / uri.removeprefix("bids::")).exists(), uri
