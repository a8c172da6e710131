"""A toy cohort of discs whose hole widens with age, taken through the stages once for all tests."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from tiny import Tiny

from atlasmith.config import Config, parse_config
from atlasmith.core.grid import Grid
from atlasmith.io.images import write_image
from atlasmith.io.tables import write_tsv

if TYPE_CHECKING:
    from second_device import SecondDevice

SIZE = 40


def discs(age: float, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(image, labels), each (SIZE, SIZE, 1): label 4 a ring, 1000 the hole, warped smoothly."""
    warp = [gaussian_filter(random.normal(size=(SIZE, SIZE)), 6) for _ in range(2)]
    x, y = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2 + np.array([w / np.abs(w).max() * 2.5 for w in warp])
    radius = np.hypot(x, 1.2 * y)
    hole = 4 + 0.05 * (age - 50)
    labels = np.where(radius < hole, 1000, np.where(radius < 12, 4, 0))
    image = np.select([labels == 1000, labels == 4], [0.4, 1.0], 0.0) + 0.15 * (np.abs(x - y) < 2) * (
        labels == 4
    )
    image = gaussian_filter(image, 0.6) * 800 + 3 * random.normal(size=image.shape) * (labels > 0)
    return np.maximum(image, 0)[..., None].astype(np.float32), labels[..., None].astype(np.int32)


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Config of a finished run up to `template`; 14 slices: 8 atlases, 3 targets, 3 for training."""
    from atlasmith.affine import align_subject, build_reference
    from atlasmith.cohort import write_checked_cohort
    from atlasmith.io.tables import read_cohort
    from atlasmith.preprocess import preprocess_subject
    from atlasmith.template import train

    folder = tmp_path_factory.mktemp("toy")
    random = np.random.default_rng(0)
    roles = ["atlas"] * 8 + ["target"] * 3 + ["train"] * 3
    rows = []
    for index, role in enumerate(roles):
        name, age = f"sub-{index:02d}", 20 + 60 * random.random()
        image, labels = discs(age, random)
        affine = np.diag([-1.0, 1.5, 1.0, 1.0])  # LAS, anisotropic, and each somewhere else
        affine[:2, 3] = random.normal(0, 20, 2)
        grid = Grid(image.shape, affine)
        write_image(folder / "bids" / name / "anat" / f"{name}_T1w.nii.gz", image, grid)
        write_image(folder / "bids/derivatives/manual" / name / "anat" / f"{name}_dseg.nii.gz", labels, grid)
        rows.append({"participant_id": name, "role": role, "age": age})
    write_tsv(folder / "bids" / "participants.tsv", rows, ["participant_id", "role", "age"])
    config = parse_config(
        {
            "output": str(folder / "results"),
            "device": "cpu",
            "cohort": {"bids": str(folder / "bids"), "covariates": ["age"]},
            "affine": {"iterations": 2},
            "template": {
                "name": "Toy",
                "spacing": 1.0,
                "condition_on": ["age"],
                "evaluate_at": {"age": [30, 70]},
                "network": {"channels": [8, 16, 16]},
                "steps": 150,
                "learning_rate": 3e-3,
                "batch_size": 4,
                "similarity": {"lncc": {"weight": 1.0, "window": 7}, "mse": {"weight": 20.0}},
            },
            "register": {"instance_optimization": {"steps": 20}},
            "fusion": {
                "methods": ["majority", "local_weighted", "votenet", "autocontext"],
                "votenet": {"channels": [8, 16], "steps": 60, "patch": 24},
                "autocontext": {"steps": 60, "voxels": 5000, "width": 16},
            },
        }
    )
    write_checked_cohort(config)
    subjects = read_cohort(config.layout.cohort)
    for subject in subjects:
        preprocess_subject(config, subject.id)
    build_reference(config)
    for subject in subjects:
        align_subject(config, subject.id)
    train(config)
    return config


@pytest.fixture(scope="session")
def toy_registered(toy: Config) -> Config:
    from atlasmith.io.tables import read_cohort
    from atlasmith.registration import register_subjects

    register_subjects(toy, [subject.id for subject in read_cohort(toy.layout.cohort)])
    return toy


@pytest.fixture
def second_device() -> "Iterator[SecondDevice]":
    """Pretend a GPU during a test."""
    from second_device import SecondDevice

    with SecondDevice() as device:
        yield device


@pytest.fixture
def tiny(tmp_path: Path) -> Tiny:
    return Tiny(tmp_path)
