"""Measure how time and memory of each stage grow with the cohort and with the template's grid.

    python benchmarks/growth.py examples/hippocampus.yaml --counts 10 50 --spacings 2 1

Runs the workflow with these numbers of subjects, five of them atlases and up to half of the others targets,
on grids of these spacings, with one core, in temporary folders. Trainings have 40 steps. Time and memory of a
job are at the end of its log. Prints a Markdown table of each stage's seconds, and of its largest job's GiB;
then, for each stage, the exponents of time = c subjects^a voxels^b, fitted to the logarithms.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from figures import Record, make_parser, print_header, print_row

from atlasmith.config import load_config
from atlasmith.core.grid import Grid
from atlasmith.io.files import read_json
from atlasmith.io.tables import read_tsv, write_tsv

ROOT = Path(__file__).parents[1]
STEPS, ATLASES = 40, 5
LOGGED = re.compile(r"^atlasmith (\S+): ([\d.]+) s, ([\d.]+) GiB at most$", re.MULTILINE)
PER_SUBJECT = ("preprocess", "affine", "register", "propagate", "fuse", "score")
Usage = dict[str, tuple[float, float]]  # of each verb: seconds of all its jobs, GiB of the largest


def make_cohort(bids: Path, count: int, folder: Path) -> Path:
    """Link the files of a cohort of `count` subjects: `ATLASES` atlases, half of the others targets."""
    rows = read_tsv(bids / "participants.tsv")
    by_role = defaultdict(list)
    for row in rows:
        by_role[row["role"]].append(row)
    targets = by_role["target"][: (count - ATLASES) // 2]
    kept = [*by_role["atlas"][:ATLASES], *targets, *by_role["train"]][:count]
    folder.mkdir()
    for path in bids.iterdir():
        if path.name != "participants.tsv":
            (folder / path.name).symlink_to(path.resolve())
    write_tsv(folder / "participants.tsv", kept, list(rows[0]))
    return folder


def run(values: dict[str, Any], folder: Path) -> Usage:
    """Run the workflow with a config in `folder`, and read what its jobs used."""
    config = folder / "settings.yaml"
    config.write_text(yaml.safe_dump(values))
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--cores", "1"]
    command += ["--workflow-profile", "none", "--configfile", str(config)]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    usage: Usage = {}
    for log in (folder / "results" / "logs").rglob("*"):
        for verb, seconds, memory in LOGGED.findall(log.read_text()) if log.is_file() else []:
            before = usage.get(verb, (0.0, 0.0))
            usage[verb] = before[0] + float(seconds), max(before[1], float(memory))
    return usage


def measure(values: dict[str, Any], bids: Path, count: int, spacing: float) -> tuple[int, int, Usage]:
    """Run the workflow on a part of a cohort; numbers of subjects and voxels, and what its jobs used."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        values["output"] = str(folder / "results")
        values["cohort"]["bids"] = str(make_cohort(bids, count, folder / "bids"))
        values.setdefault("template", {}).update({"spacing": spacing, "steps": STEPS})
        values.setdefault("fusion", {})["autocontext"] = {"steps": STEPS}
        usage = run(values, folder)
        layout = load_config(folder / "results" / "config.yaml").layout
        voxels = int(np.prod(Grid.from_dict(read_json(layout.grid)).shape))
        return len(read_tsv(layout.cohort)), voxels, usage


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("--bids", type=Path, help="the cohort, if not the config's")
    parser.add_argument("--counts", type=int, nargs="+", default=[10, 50, 200])
    parser.add_argument("--spacings", type=float, nargs="+", required=True, help="mm")
    options = parser.parse_args()
    values = yaml.safe_load(options.config.read_text())
    bids = (options.bids or load_config(options.config).cohort.bids).resolve()
    record = Record(options.record, dataset=bids.name)
    protocol = f"growth with subjects and voxels, trainings of {STEPS} steps"
    measured: dict[str, list[tuple[int, int, float]]] = defaultdict(list)
    print_header("stage", "subjects", "voxels of the template", "s", "s for a subject", "GiB")
    for spacing in options.spacings:
        for count in options.counts:
            subjects, voxels, usage = measure(values, bids, count, spacing)
            for verb, (seconds, memory) in usage.items():
                each = f"{seconds / subjects:.2f}" if verb in PER_SUBJECT else ""
                print_row(verb, subjects, f"{voxels:,}", f"{seconds:.0f}", each, f"{memory:.2f}")
                figures = {"time_s": seconds, "peak_memory_gib": memory}
                note = f"{protocol} | {subjects} subjects, {voxels} voxels"
                record.add("scaling", verb, figures, note=note)
                measured[verb].append((subjects, voxels, seconds))
    print_header("stage", "exponent of subjects", "exponent of voxels")
    for verb, found in measured.items():
        if len({m[0] for m in found}) < 2 or len({m[1] for m in found}) < 2:
            continue
        subjects_, voxels_, seconds_ = np.log(np.array(found, dtype=float)).T
        columns = [np.ones_like(subjects_), subjects_, voxels_]
        (_, a, b), *_ = np.linalg.lstsq(np.stack(columns, axis=1), seconds_)
        print_row(verb, f"{a:.2f}", f"{b:.2f}")
        few, many = (choose(m[0] for m in found) for choose in (min, max))
        exponents = {"time_exponent_subjects": float(a), "time_exponent_voxels": float(b)}
        record.add("scaling", verb, exponents, note=f"exponents of time, from {few} to {many} subjects")


if __name__ == "__main__":
    main()
