"""How each stage's time and memory grow with the cohort and with the template's grid.

    python benchmarks/growth.py examples/hippocampus.yaml --counts 10 50 --spacings 2 1

Runs the workflow on so many subjects, five of them atlases and up to half of the others targets, on grids of
these spacings, with one core, in temporary folders. Training is cut to 40 steps. What each job took stands at
the end of its log. Prints a Markdown table of seconds a subject, or once, and of the largest job's GiB; then,
for each stage, time = c people^a voxels^b, fitted to the logarithms.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from atlasmith.config import load_config
from atlasmith.core.grid import Grid
from atlasmith.io.files import read_json
from atlasmith.io.tables import read_tsv, write_tsv

ROOT = Path(__file__).parents[1]
STEPS, ATLASES = 40, 5
SAID = re.compile(r"^atlasmith (\S+): ([\d.]+) s, ([\d.]+) GiB at most$", re.MULTILINE)
PER_SUBJECT = ("affine", "register", "propagate", "fuse", "score")
Usage = dict[str, tuple[float, float]]  # of each verb: seconds of all its jobs, GiB of the largest


def cohort_of(bids: Path, count: int, folder: Path) -> Path:
    """A cohort of `count` people, `ATLASES` of them atlases, half of the others targets, of linked files."""
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
    config = folder / "mine.yaml"
    config.write_text(yaml.safe_dump(values))
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--cores", "1"]
    command += ["--workflow-profile", "none", "--configfile", str(config)]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    usage: Usage = {}
    for log in (folder / "results" / "logs").rglob("*"):
        for verb, seconds, memory in SAID.findall(log.read_text()) if log.is_file() else []:
            before = usage.get(verb, (0.0, 0.0))
            usage[verb] = before[0] + float(seconds), max(before[1], float(memory))
    return usage


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path)
    parser.add_argument("--bids", type=Path, help="the cohort, if not the config's")
    parser.add_argument("--counts", type=int, nargs="+", default=[10, 50, 200])
    parser.add_argument("--spacings", type=float, nargs="+", required=True, help="mm")
    options = parser.parse_args()
    values = yaml.safe_load(options.config.read_text())
    bids = (options.bids or load_config(options.config).cohort.bids).resolve()
    found: dict[str, list[tuple[int, int, float]]] = defaultdict(list)
    print("| stage | people | voxels of the template | s | s a subject | GiB |\n|---|---|---|---|---|---|")
    for spacing in options.spacings:
        for count in options.counts:
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                values["output"] = str(folder / "results")
                values["cohort"]["bids"] = str(cohort_of(bids, count, folder / "bids"))
                values.setdefault("template", {}).update({"spacing": spacing, "steps": STEPS})
                values.setdefault("fusion", {})["autocontext"] = {"steps": STEPS}
                usage = run(values, folder)
                layout = load_config(folder / "results" / "config.yaml").layout
                people = len(read_tsv(layout.cohort))
                voxels = int(np.prod(Grid.from_dict(read_json(layout.grid)).shape))
            for verb, (seconds, memory) in usage.items():
                each = f"{seconds / people:.2f}" if verb in PER_SUBJECT else ""
                print(
                    f"| {verb} | {people} | {voxels:,} | {seconds:.0f} | {each} | {memory:.2f} |", flush=True
                )
                found[verb].append((people, voxels, seconds))
    print("\n| stage | s | |\n|---|---|---|")
    for verb, measured in found.items():
        if len({m[0] for m in measured}) < 2 or len({m[1] for m in measured}) < 2:
            continue
        numbers, sizes, seconds = np.log(np.array(measured, dtype=float)).T
        columns = [np.ones_like(numbers), numbers, sizes]
        (c, a, b), *_ = np.linalg.lstsq(np.stack(columns, axis=1), seconds)
        print(f"| {verb} | {np.exp(c):.3g} people^{a:.2f} voxels^{b:.2f} |")


if __name__ == "__main__":
    main()
