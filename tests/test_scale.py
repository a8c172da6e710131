"""Results don't depend on the unit of length: a cohort in another size has the same results in that size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import discs

from atlasmith.affine import align_subject, build_reference
from atlasmith.cohort import write_checked_cohort
from atlasmith.config import Config, parse_config
from atlasmith.core.grid import Grid
from atlasmith.evaluation import score_subject, summarize
from atlasmith.evaluation.metrics import METRICS
from atlasmith.fusion import assess_quality, fuse_subject, train_fusers
from atlasmith.io.images import read_image, read_labels, write_image
from atlasmith.io.tables import read_cohort, read_tsv, write_tsv
from atlasmith.preprocess import preprocess_subject
from atlasmith.propagation import label_template, propagate_subject
from atlasmith.registration import register_subjects
from atlasmith.report.volumes import make_view
from atlasmith.template import train

SCALE = 1 / 16  # a power of two: coordinates are scaled without rounding, so that results are the same
ROLES = ["atlas"] * 4 + ["target", "train"]
POWERS = {"mm": 1, "1/mm": -1, "1/mm2": -2}


def make_config(folder: Path, scale: float) -> Config:
    """Write a cohort of slices of some size, each somewhere else, and return its config of few steps."""
    random, rows = np.random.default_rng(0), []
    for index, role in enumerate(ROLES):
        name, age = f"sub-{index:02d}", 30 + 10.0 * index
        image, labels = discs(age, random)
        affine = np.diag([-1.0, 1.5, 1.0, 1.0])
        affine[:2, 3] = random.normal(0, 20, 2)
        grid = Grid(image.shape, np.diag([scale] * 3 + [1.0]) @ affine)
        write_image(folder / "bids" / name / "anat" / f"{name}_T1w.nii.gz", image, grid)
        write_image(folder / "bids/derivatives/manual" / name / "anat" / f"{name}_dseg.nii.gz", labels, grid)
        rows.append({"participant_id": name, "role": role, "age": age})
    write_tsv(folder / "bids" / "participants.tsv", rows, ["participant_id", "role", "age"])
    template = {
        "spacing": scale,
        "condition_on": ["age"],
        "network": {"channels": [4, 8, 8]},
        "steps": 20,
        "refinement": {"rounds": 2, "steps": 4},
        # The weights of two of the default regularizers apply to squared lengths, and are the default's here.
        "regularization": {
            "diffusion": {"weight": 0.4},
            "magnitude": {"weight": 0.001 / scale**2},
            "centrality": {"weight": 0.02 / scale**2},
        },
    }
    return parse_config(
        {
            "output": str(folder / "results"),
            "device": "cpu",
            "cohort": {"bids": str(folder / "bids"), "covariates": ["age"]},
            "preprocess": {"n4": True},
            "affine": {"iterations": 1},
            "template": template,
            "register": {"instance_optimization": {"steps": 4}},
            "fusion": {"autocontext": {"steps": 20, "voxels": 1000, "width": 8}},
            "score": {"bootstrap": 20},
        }
    )


def run(config: Config) -> Config:
    """Run all stages but the report."""
    write_checked_cohort(config)
    subjects = read_cohort(config.layout.cohort)
    ids, labeled = [s.id for s in subjects], [s.id for s in subjects if s.role != "train"]
    for subject in ids:
        preprocess_subject(config, subject)
    build_reference(config)
    for subject in ids:
        align_subject(config, subject)
    train(config)
    register_subjects(config, ids)
    label_template(config)
    for subject in labeled:
        propagate_subject(config, subject)
    train_fusers(config)
    for subject in labeled:
        fuse_subject(config, subject)
    assess_quality(config)
    for subject in ids:
        score_subject(config, subject)
    summarize(config)
    return config


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Config]:
    large, small = (
        run(make_config(tmp_path_factory.mktemp(name), scale)) for name, scale in (("a", 1.0), ("b", SCALE))
    )
    return large, small


def test_template_and_segmentations_are_the_same(runs: tuple[Config, Config]) -> None:
    large, small = (config.layout for config in runs)
    np.testing.assert_allclose(
        read_image(small.template_image).data, read_image(large.template_image).data, atol=1e-4
    )
    paths = sorted(path.relative_to(large.output) for path in large.output.glob("sub-*/anat/*_dseg.nii.gz"))
    assert len(paths) > 15
    for path in paths:
        found, expected = (read_labels(layout.output / path) for layout in (small, large))
        assert np.array_equal(found.data, expected.data), path
        np.testing.assert_allclose(found.grid.affine[:3], SCALE * expected.grid.affine[:3], rtol=1e-6)


def test_scores_are_the_same_in_their_units(runs: tuple[Config, Config]) -> None:
    small, large = ([*read_tsv(config.layout.summary)] for config in runs[::-1])
    keys = ("stage", "method", "label", "metric")
    assert [[row[key] for key in keys] for row in small] == [[row[key] for key in keys] for row in large]
    units = set()
    for found, expected in zip(small, large, strict=True):
        unit = expected["unit"]
        units.add(unit)
        for column in ("mean", "ci95_low", "ci95_high"):
            values = [np.float64(row[column].replace("n/a", "nan")) for row in (found, expected)]
            np.testing.assert_allclose(
                values[0],
                values[1] * SCALE ** POWERS.get(unit, 0),
                rtol=1e-3,
                atol=1e-7,
                err_msg=str(expected),
            )
    assert units >= POWERS.keys() | {METRICS["dice"].unit}


def test_pictures_of_the_report_show_the_same_voxels() -> None:
    content = np.zeros((30, 30, 30), dtype=bool)
    content[10:20, 8:20, 10:22] = True
    large, small = (make_view(Grid(content.shape, np.diag([s] * 3 + [1.0])), content) for s in (1, SCALE))
    assert large.box == small.box and large.shown.shape == small.shown.shape == (18, 20, 20)
