"""Measure what planning and training cost for a large cohort.

    python benchmarks/scale.py --subjects 200 2000
    python benchmarks/scale.py --training --subjects 50 2000

The first makes a cohort of one tiny image, linked many times, a tenth of the subjects atlases, and prints the
jobs, seconds, CPU seconds and peak memory of `snakemake --dry-run`. The second trains the template of 50
noisy images, linked as the aligned images of this number of subjects, in two passes over them and a round of
refinement, and prints seconds and peak memory of `atlasmith template`. Both print Markdown tables.
"""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import nibabel as nib
import numpy as np
import yaml
from figures import Record, make_parser, print_header, print_row

from atlasmith.config import load_config
from atlasmith.core.grid import Grid
from atlasmith.io.files import write_json
from atlasmith.io.images import write_image
from atlasmith.io.tables import Subject, write_cohort, write_tsv
from atlasmith.io.transforms import write_affine

ROOT = Path(__file__).parents[1]
SHAPE, IMAGES = (48, 64, 48), 50  # of the training


def make_cohort(folder: Path, subjects: int) -> Path:
    """Make a cohort of one image; returns the config."""
    image = folder / "image.nii.gz"
    nib.Nifti1Image(np.arange(512, dtype=np.uint8).reshape(8, 8, 8) % 2, np.eye(4)).to_filename(image)
    bids, rows = folder / "bids", []
    for index in range(subjects):
        name, role = f"sub-{index:05d}", "atlas" if index % 10 == 0 else "target"
        for part, suffix in (("", "T1w"), ("derivatives/manual", "dseg")):
            path = bids / part / name / "anat" / f"{name}_{suffix}.nii.gz"
            path.parent.mkdir(parents=True)
            os.link(image, path)
        rows.append({"participant_id": name, "role": role})
    write_tsv(bids / "participants.tsv", rows, ["participant_id", "role"])
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump({"cohort": {"bids": str(bids)}, "output": str(folder / "results")}))
    return config


def make_aligned(folder: Path, subjects: int) -> Path:
    """Make a cohort whose affine stage is finished; returns the config."""
    random, grid = np.random.default_rng(0), Grid(SHAPE, np.eye(4))
    squared_radius = sum(
        (np.arange(n).reshape([-1 if a == b else 1 for b in range(3)]) / n - 0.5) ** 2
        for a, n in enumerate(SHAPE)
    )
    values = {
        "cohort": {"bids": "bids"},
        "output": str(folder / "results"),
        "device": "cpu",
        "template": {
            "spacing": 1.0,
            "steps": 2 * subjects // 4,
            "refinement": {"rounds": 1, "steps": 1},
        },
    }
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(values))
    layout = load_config(config).layout
    cohort = []
    for index in range(subjects):
        name, original = f"{index:05d}", f"{index % IMAGES:05d}"
        aligned = layout.affine_image(name)
        if index < IMAGES:
            write_image(aligned, np.exp(-9 * squared_radius) + random.normal(0, 0.1, SHAPE), grid)
        else:
            aligned.parent.mkdir(parents=True)
            os.link(layout.affine_image(original), aligned)
        os.link(aligned, layout.preprocessed(name))
        write_affine(layout.affine(name), np.eye(4))
        cohort.append(Subject(name, "train", aligned))
    write_cohort(layout.cohort, cohort, [])
    write_json(layout.grid, grid.to_dict())
    return config


def measure_training(subjects: int) -> tuple[float, float]:
    """Train; seconds and peak GiB. Runs in a process of its own, whose only child is this training."""
    with tempfile.TemporaryDirectory() as name:
        config = make_aligned(Path(name), subjects)
        start = time.monotonic()
        command = [sys.executable, "-m", "atlasmith.cli", "template", "--config", str(config)]
        subprocess.run(command, cwd=name, capture_output=True, check=True)
        seconds = time.monotonic() - start
    return seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20


def measure_dry_run(subjects: int) -> tuple[int, float, float, float]:
    """Plan the workflow; jobs, seconds, CPU seconds and the peak GiB of all dry runs so far."""
    with tempfile.TemporaryDirectory() as folder:
        config = make_cohort(Path(folder), subjects)
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--dry-run"]
        start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [*command, "--quiet", "rules", "--configfile", str(config)],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        )
        seconds = time.monotonic() - start
    jobs = re.search(r"^total +(\d+)", done.stdout + done.stderr, flags=re.MULTILINE)
    assert jobs is not None, "snakemake prints the number of jobs"
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return int(jobs[1]), seconds, busy, after.ru_maxrss / 2**20


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--subjects", type=int, nargs="+", default=[200, 2000])
    parser.add_argument("--training", action="store_true", help="train a template, instead of planning")
    options = parser.parse_args()
    record = Record(options.record, dataset="synthetic")
    if options.training:
        shape = " x ".join(map(str, SHAPE))
        note = f"two passes of training and a round of refinement, {shape} voxels"
        print_header("subjects", "s", "peak memory, GiB")
        for subjects in options.subjects:
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                seconds, peak = pool.submit(measure_training, subjects).result()
            print_row(subjects, f"{seconds:.0f}", f"{peak:.3f}")
            figures = {"time_s": seconds, "peak_memory_gib": peak}
            record.add("scaling", f"{subjects} subjects", figures, n=subjects, note=note)
        return
    print_header("subjects", "jobs", "s", "CPU s", "peak memory, GiB")
    for subjects in sorted(options.subjects):
        jobs, seconds, busy, peak = measure_dry_run(subjects)
        print_row(subjects, jobs, f"{seconds:.0f}", f"{busy:.0f}", f"{peak:.2f}")
        figures = {"jobs": jobs, "time_s": seconds, "cpu_time_s": busy, "peak_memory_gib": peak}
        note = f"dry run of the workflow, {subjects} subjects, {-(-subjects // 10)} of them atlases"
        record.add("scaling", "snakemake --dry-run", figures, n=subjects, note=note)


if __name__ == "__main__":
    main()
