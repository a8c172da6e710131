"""How time and memory of `register` grow with the cohort: a finished run's first 50, 100, 200 people anew.

    python benchmarks/growth.py results-hippocampus

Everything is written to a temporary folder. Prints a Markdown table, and the power of the number of people
that the time grows with, fitted to the logarithms; 1 is linear.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from atlasmith.config import Config, load_config
from atlasmith.io.tables import read_cohort
from atlasmith.register import register_subjects


def measure(config: Config, ids: list[str]) -> tuple[float, float]:
    """Seconds and peak memory in GiB, in a process of its own."""
    start = time.perf_counter()
    register_subjects(config, ids)
    return time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="a finished output folder")
    parser.add_argument("--counts", type=int, nargs="+", default=[50, 100, 200])
    options = parser.parse_args()
    run = options.run.resolve()
    config = load_config(run / "config.yaml").model_copy(update={"output": run})
    ids = [subject.id for subject in read_cohort(config.layout.cohort)]
    counts = [count for count in options.counts if count <= len(ids)]
    seconds = []
    print("| people | register, s | s a person | peak memory, GiB |\n|---|---|---|---|")
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            there = Path(folder) / "run"
            shutil.copytree(
                run,
                there,
                copy_function=os.symlink,
                ignore=shutil.ignore_patterns("*_xfm.h5", "*desc-warped*", "*jacobian*", "*registration*"),
            )
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                copied = config.model_copy(update={"output": there})
                taken, memory = pool.submit(measure, copied, ids[:count]).result()
        seconds.append(taken)
        print(f"| {count} | {taken:.0f} | {taken / count:.2f} | {memory:.2f} |", flush=True)
    if len(counts) > 1:
        power = np.polyfit(np.log(counts), np.log(seconds), 1)[0]
        print(f"\nTime grows with people to the power of {power:.2f}.")


if __name__ == "__main__":
    main()
