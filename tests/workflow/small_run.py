"""A complete run that takes a minute, and hashes of its results, by which runs are compared."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import yaml
from conftest import discs

from atlasmith.core.grid import Grid
from atlasmith.io.images import write_image
from atlasmith.io.tables import write_tsv

ROOT = Path(__file__).parents[2]
CONFIG = "small.yaml"
JOBS = 17  # of a complete run


def make_small_run(folder: Path) -> Path:
    """Write a cohort of six slices and its config; every stage runs, each with few steps."""
    random = np.random.default_rng(0)
    rows = []
    for index, role in enumerate(["atlas"] * 4 + ["target", "train"]):
        name, age = f"sub-{index:02d}", 30 + 10.0 * index
        image, labels = discs(age, random)
        grid = Grid(image.shape, np.eye(4))
        write_image(folder / "bids" / name / "anat" / f"{name}_T1w.nii.gz", image, grid)
        write_image(folder / "bids/derivatives/manual" / name / "anat" / f"{name}_dseg.nii.gz", labels, grid)
        rows.append({"participant_id": name, "role": role, "age": age})
    write_tsv(folder / "bids" / "participants.tsv", rows, ["participant_id", "role", "age"])
    config = {
        "device": "cpu",
        "cohort": {"bids": "bids", "covariates": ["age"]},
        "affine": {"iterations": 1},
        "template": {
            "name": "Small",
            "condition_on": ["age"],
            "evaluate_at": {"age": [30, 70]},
            "network": {"channels": [4, 8, 8]},
            "steps": 40,
            "checkpoint_every": 10,
            "refinement": {"rounds": 2, "steps": 4},
        },
        "register": {"instance_optimization": {"steps": 4}},
        "fusion": {
            "uncertainty": True,
            "autocontext": {"steps": 40, "voxels": 2000, "width": 8, "checkpoint_every": 10},
        },
        "score": {"bootstrap": 50},
    }
    path = folder / CONFIG
    path.write_text(yaml.safe_dump(config))
    return path


def start(folder: Path, *arguments: object, wrapper: str | Path | None = None) -> subprocess.Popen[str]:
    """Start Snakemake on that config, in a process group of its own; its messages come from stdout."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", ROOT / "Snakefile", "--configfile", CONFIG]
    if wrapper is not None:
        command.insert(0, wrapper)
    return subprocess.Popen(
        [*map(str, [*command, *arguments])],
        cwd=folder,
        env=os.environ
        | {"SOURCE_DATE_EPOCH": "0"}  # the report tells the date
        | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    """Wait for a run that must succeed; returns its messages."""
    messages, _ = process.communicate()
    assert process.returncode == 0, messages
    return messages


def result_hashes(folder: Path) -> dict[str, str]:
    """Hash each result's bytes, without the folder's own name, which some of them contain.

    Logs have times and places in them, and are left out.
    """
    results = folder / "results"
    return {
        str(path.relative_to(results)): hashlib.sha256(
            path.read_bytes().replace(bytes(folder.resolve()), b"")
        ).hexdigest()
        for path in sorted(results.rglob("*"))
        if path.is_file() and path.relative_to(results).parts[0] not in ("logs", ".lock")
    }
