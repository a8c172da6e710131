"""A mixture of templates: planted subpopulations are found, also for a new subject."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import discs
from tiny import Tiny, only

from atlasmith.affine import align_subject, build_reference
from atlasmith.config import Config, parse_config
from atlasmith.core.errors import AtlasmithError, InputError
from atlasmith.core.grid import Grid
from atlasmith.inference import query_template, register_image
from atlasmith.io.files import read_json, write_text
from atlasmith.io.images import read_image, read_labels, write_image
from atlasmith.io.layout import Layout
from atlasmith.io.tables import Subject, read_cohort, write_cohort
from atlasmith.networks import Groupwise
from atlasmith.preprocess import preprocess_subject
from atlasmith.propagation import label_template
from atlasmith.registration import register_subjects
from atlasmith.template import train
from atlasmith.template.subpopulations import cluster, find_subpopulations, nearest_subpopulation


def test_planted_clusters_are_found_with_missing_data() -> None:
    random = np.random.default_rng(0)
    planted = np.repeat([0, 1, 2], (12, 9, 5))
    values = random.normal(size=(3, 40))[planted] + 0.3 * random.normal(size=(26, 40))
    fractions = np.ones_like(values)
    fractions[::4, :15] = 0
    values[::4, :15] = 100.0  # without data, must not be used
    np.testing.assert_array_equal(cluster(values, fractions, 3, seed=0), planted)


def test_equal_rows_are_one_cluster() -> None:
    np.testing.assert_array_equal(cluster(np.ones((5, 4)), np.ones((5, 4)), 2, seed=0), 0)


@pytest.fixture(scope="module")
def mixture(toy: Config, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A finished template of discs of which every third has a wide hole; no covariate tells which."""
    folder = tmp_path_factory.mktemp("mixture")
    random = np.random.default_rng(1)
    subjects = []
    for index in range(12):
        image, labels = discs(120.0 if index % 3 == 0 else 20.0, random)
        paths = [folder / f"{index:02d}_{kind}.nii.gz" for kind in ("T1w", "dseg")]
        for path, data in zip(paths, (image, labels), strict=True):
            write_image(path, data, Grid(image.shape, np.eye(4)))
        subjects.append(Subject(f"{index:02d}", "atlas", *paths))
    values = toy.resolved() | {"output": str(folder / "results")}
    values["cohort"]["covariates"] = []
    values["template"] |= {"condition_on": [], "evaluate_at": {}, "subpopulations": 2, "steps": 40}
    values["template"]["refinement"] = {"rounds": 1, "steps": 10}
    config = parse_config(values)
    write_cohort(config.layout.cohort, subjects, [])
    for path in (toy.layout.grid, toy.layout.labels):
        shutil.copy(path, config.output)
    write_text(config.layout.config, yaml.safe_dump(config.resolved()))
    for subject in subjects:
        preprocess_subject(config, subject.id)
    build_reference(config)
    for subject in subjects:
        align_subject(config, subject.id)
    find_subpopulations(config)
    train(config)
    register_subjects(config, [subject.id for subject in subjects])
    label_template(config)
    return config


def test_planted_subpopulations_are_found(mixture: Config) -> None:
    found = [subject.covariates["subpopulation"] for subject in read_cohort(mixture.layout.cohort)]
    assert found == ["B", "A", "A"] * 4


def test_scans_of_a_participant_are_of_one_subpopulation(mixture: Config, tmp_path: Path) -> None:
    sessions = {"00": "a_ses-1", "01": "a_ses-2", "03": "a_ses-3"}  # of B, A, B
    subjects = read_cohort(mixture.layout.cohort)
    values = mixture.resolved() | {"output": str(tmp_path)}
    config = parse_config(values)
    shutil.copy(mixture.layout.grid, tmp_path)
    renamed = [replace(s, id=sessions.get(s.id, s.id), covariates={}) for s in subjects]
    write_cohort(config.layout.cohort, renamed, [])
    for old, new in zip(subjects, renamed, strict=True):
        target = config.layout.affine_image(new.id)
        target.parent.mkdir(parents=True)
        for name in ("affine", "affine_image"):
            shutil.copy(getattr(mixture.layout, name)(old.id), getattr(config.layout, name)(new.id))
    find_subpopulations(config)
    found = {s.id: s.covariates["subpopulation"] for s in read_cohort(config.layout.cohort)}
    assert {found[name] for name in sessions.values()} == {"B"}
    assert [found[name] for name in ("02", "04", "06", "09")] == ["A", "A", "B", "B"]


def test_each_subpopulation_has_its_template(mixture: Config) -> None:
    cohorts = read_json(mixture.layout.template_description)["cohort"]
    assert [cohort["covariates"] for cohort in cohorts.values()] == [
        {"subpopulation": "A"},
        {"subpopulation": "B"},
    ]
    narrow, wide = (read_image(mixture.layout.template_at(k)).data for k in (1, 2))
    ring = narrow > 0.7 * narrow.max()
    assert wide[ring].mean() < 0.9 * narrow[ring].mean()


def test_query_of_a_subpopulation(mixture: Config, tmp_path: Path) -> None:
    holes = {}
    for name in "AB":
        query_template(mixture.output, {"subpopulation": name}, tmp_path / name)
        found = Layout(tmp_path / name, "Toy", ("T1w",)).template_labels
        holes[name] = int((read_labels(found).data == 1000).sum())
    assert holes["B"] > 2 * holes["A"]
    with pytest.raises(InputError, match=r"no subject of the cohort has subpopulation 'C'.*A, B"):
        query_template(mixture.output, {"subpopulation": "C"}, tmp_path / "C")


def test_a_new_subject_is_assigned_to_the_nearest_template(mixture: Config, tmp_path: Path) -> None:
    for index, subject in enumerate(read_cohort(mixture.layout.cohort)):
        unknown = replace(subject, covariates={})
        assert nearest_subpopulation(mixture, unknown) == "BAA"[index % 3]
    image = read_cohort(mixture.layout.cohort)[0].image
    found = []
    for covariates in ({}, {"subpopulation": "B"}, {"subpopulation": "A"}):
        out = tmp_path / str(len(found))
        register_image(mixture.output, image, covariates, out)
        found.append(next(out.rglob("*from-T1w_to-Toy_mode-image_xfm.h5")).read_bytes())
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("text", ["C", "1"])
def test_an_unknown_subpopulation_is_refused(mixture: Config, tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match=rf"no subject of the cohort has subpopulation '{text}'.*A, B"):
        query_template(mixture.output, {"subpopulation": text}, tmp_path)


def test_one_round_subtracts_no_mean_coefficients(mixture: Config) -> None:
    assert not Groupwise.load(mixture.layout.template_weights).mean_coefficients.any()


def test_subpopulations_are_needed_by_the_template(mixture: Config, tmp_path: Path) -> None:
    config = mixture.model_copy(update={"output": tmp_path})
    for path in (mixture.layout.grid, mixture.layout.cohort):
        shutil.copy(path, tmp_path)
    with pytest.raises(AtlasmithError, match="Run `atlasmith subpopulations` first"):
        train(config)
    alone = config.model_copy(update={"template": config.template.model_copy(update={"subpopulations": 1})})
    with pytest.raises(AtlasmithError, match="there is a single population"):
        find_subpopulations(alone)


def test_too_many_and_unknown_subpopulations_are_refused(tiny: Tiny) -> None:
    only(tiny.problems(template={"subpopulations": 3}), "template.subpopulations", "3", "4 subjects")
    with pytest.raises(InputError, match=r"evaluate_at.subpopulation.*'C'.*A, B"):
        tiny.config(template={"subpopulations": 2, "evaluate_at": {"subpopulation": ["A", "C"]}})


def test_a_column_of_that_name_is_refused(toy: Config) -> None:
    values = toy.resolved()
    values["template"]["subpopulations"] = 2
    values["cohort"]["covariates"] = ["age", "subpopulation"]
    with pytest.raises(InputError, match=r"cohort.covariates.*'subpopulation'.*Rename"):
        parse_config(values)
