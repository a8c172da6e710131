"""What planning costs for a large cohort: a dry run of the workflow on so many subjects.

    python benchmarks/scale.py --subjects 200 2000

Makes a cohort of one tiny image, linked again and again, a tenth of it atlases. Prints a Markdown table: the
jobs, seconds, seconds of CPU and peak memory of `snakemake --dry-run`.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import yaml

from atlasmith.io.tables import write_tsv

ROOT = Path(__file__).parents[1]


def make_cohort(folder: Path, subjects: int) -> Path:
    """The config."""
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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--subjects", type=int, nargs="+", default=[200, 2000])
    options = parser.parse_args()
    print("| subjects | jobs | s | s of CPU | peak memory, GiB |\n|---|---|---|---|---|")
    for subjects in sorted(options.subjects):  # the peak is that of all so far
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
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        count = jobs[1] if jobs else "?"
        print(
            f"| {subjects} | {count} | {seconds:.0f} | {busy:.0f} | {after.ru_maxrss / 2**20:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
