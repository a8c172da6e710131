"""The cohort stage: what it writes, and that it reports all problems at once."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import Tiny, with_nan

from atlasmith.cohort import (
    check_cohort,
    checked_participants,
    participants,
    read_participants,
    write_checked_cohort,
)
from atlasmith.config import load_config, parse_config
from atlasmith.core.grid import Grid
from atlasmith.io.files import read_json
from atlasmith.io.tables import read_cohort, read_tsv

SHARED = Path(__file__).parents[2].parent / "shared"


def test_a_valid_cohort_is_written(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny.config()
    write_checked_cohort(config)
    layout = config.layout
    subjects = read_cohort(layout.cohort)
    assert [(s.id, s.role) for s in subjects] == [
        ("01", "atlas"),
        ("02", "atlas"),
        ("03", "target"),
        ("04", "train"),
    ]
    assert [s.image for s in subjects] == [tiny.image(f"sub-0{n}") for n in (1, 2, 3, 4)]
    assert [s.labels for s in subjects] == [*(tiny.labels(f"sub-0{n}") for n in (1, 2, 3)), None]
    assert subjects[0].covariates == {"age": 70.0, "sex": "M"}
    assert subjects[2].covariates == {"age": None, "sex": "M"}
    assert read_tsv(layout.labels) == [
        {"index": "1", "name": "left part", "color": "#e6194b"},
        {"index": "7", "name": "label7", "color": "#3cb44b"},
    ]
    # Boxes of 12 x 12 x 10 mm, 4 mm of margin on each side: 20, 20, 18 mm, so 10, 10, 9 voxels.
    grid = Grid.from_dict(read_json(layout.grid))
    assert grid.shape == (16, 16, 16)
    assert np.allclose(grid.affine[:3, :3], 2 * np.eye(3)) and np.allclose(grid.center, 0)
    assert load_config(layout.config) == config
    description = read_json(config.output / "dataset_description.json")
    assert description["DatasetType"] == "derivative"
    made_with = {maker["Name"]: maker["Version"] for maker in description["GeneratedBy"]}
    assert next(iter(made_with)) == "atlasmith" and made_with["torch"] == torch.__version__
    hashes = dict(reversed(line.split("  ", 1)) for line in layout.inputs.read_text().splitlines())
    images = [subject.image for subject in subjects]
    assert set(map(str, images)) < set(hashes) and len(hashes) == 7  # four images, three of labels
    for path, found in hashes.items():
        assert found == hashlib.sha256(Path(path).read_bytes()).hexdigest()
    assert "*_xfm.*" in (config.output / ".bidsignore").read_text()
    in_order_of_the_table = [
        (name[4:], row["role"], True, (row["age"], row["sex"]), (tiny.image(name).name,))
        for row in tiny.rows
        for name in [row["participant_id"]]
    ]
    assert read_participants(config) == in_order_of_the_table
    assert sorted(checked_participants(config).values()) == sorted(in_order_of_the_table)
    monkeypatch.setattr(participants, "__version__", "another")
    assert checked_participants(config) == {}


def test_paths_are_absolute_where_the_configs_are_not(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny.bids)
    checked = check_cohort(tiny.config(cohort={"bids": "../bids"}))
    assert checked.subjects[0].image == tiny.image("sub-01")


def test_the_same_cohort_gives_the_same_bytes(tiny: Tiny) -> None:
    config = tiny.config()
    files = ("config.yaml", "cohort.tsv", "dseg.tsv", "grid.json", "dataset_description.json")
    write_checked_cohort(config)
    before = [(config.output / name).read_bytes() for name in files]
    write_checked_cohort(config)
    assert [(config.output / name).read_bytes() for name in files] == before


def test_all_problems_are_reported_at_once_and_nothing_is_written(tiny: Tiny) -> None:
    tiny.image("sub-01").unlink()
    tiny.change(tiny.image("sub-02"), with_nan)
    tiny.change(tiny.labels("sub-02"), lambda data: data * 0.5)
    tiny.rows[2]["role"] = "targte"
    tiny.rows[3]["age"] = "old"
    tiny.write_table()
    problems = tiny.problems(score={"metrics": ["dcie"]})
    for part in ("'dice'", "'targte'", "'old' (sub-04)", "sub-01_T1w.nii.gz", "NaN", "no integers"):
        assert len([problem for problem in problems if part in problem]) == 1, (part, problems)
    assert len(problems) == 6
    assert not tiny.output.exists()


@pytest.mark.skipif(not (SHARED / "data/hippocampus").exists(), reason="the hippocampus cohort is not here")
def test_the_hippocampus_cohort(tmp_path: Path) -> None:
    config = parse_config(
        {"output": str(tmp_path / "out"), "cohort": {"bids": str(SHARED / "data/hippocampus")}}
    )
    checked = check_cohort(config)
    assert checked.grid.shape == (48, 64, 48)
    assert checked.label_names == {1: "anterior hippocampus", 2: "posterior hippocampus"}
    assert len(checked.subjects) == 200
