"""A run of the whole workflow on slices, which takes as little as possible."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import yaml
from conftest import discs

from atlasmith.core.grid import Grid
from atlasmith.io.images import write_image

SRC = Path(__file__).parents[2] / "src"
LABELED = ("01", "02", "03")
UNLABELED = ("04", "05", "06")
SETTINGS = {
    "device": "cpu",
    "affine": {"iterations": 1},
    "template": {"network": {"channels": [4, 8]}, "steps": 2, "refinement": {"rounds": 1, "steps": 1}},
    "register": {"instance_optimization": {"steps": 1}},
    "fusion": {"methods": ["majority"], "quality": False},
    "score": {"bootstrap": 10},
}


def make_cohort(bids: Path) -> Path:
    """Write six slices, three of them with labels, and no table of participants."""
    random = np.random.default_rng(0)
    for index, name in enumerate((*LABELED, *UNLABELED)):
        image, labels = discs(30 + 10.0 * index, random)
        grid = Grid(image.shape, np.eye(4))
        write_image(bids / f"sub-{name}" / "anat" / f"sub-{name}_T1w.nii.gz", image, grid)
        if name in LABELED:
            path = bids / "derivatives/manual" / f"sub-{name}" / "anat" / f"sub-{name}_dseg.nii.gz"
            write_image(path, labels, grid)
    return bids


def write_settings(path: Path) -> Path:
    """Write a config of few steps."""
    cohort = {"bids": "elsewhere", "role": None}
    path.write_text(yaml.safe_dump({"cohort": cohort, **SETTINGS}))
    return path


def atlasmith(
    folder: Path, *arguments: object, python: str = sys.executable, path: Path = SRC
) -> subprocess.CompletedProcess[str]:
    """Run `atlasmith` in a folder, with modules from `path`."""
    return subprocess.run(
        [python, "-m", "atlasmith.cli", *map(str, arguments)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
