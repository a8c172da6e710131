"""Time `atlasmith predict` of new images in a warm process.

    python benchmarks/predict.py RESULTS IMAGE... [--threads N] [--fast] [--alone]

The first two images warm the process up and aren't counted. Prints seconds of wall time and of CPU for each
of the others, whose results go to a temporary folder. Images are divided among the threads, as the command
does with many; with `--alone` one after another has all threads.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from figures import Record, make_parser, print_header, print_row

from atlasmith.config import load_config
from atlasmith.inference import predict_all
from atlasmith.inference.finished_run import open_run
from atlasmith.inference.prediction import predict_scan
from atlasmith.inference.scans import find_scans
from atlasmith.io.memory import keep_in_memory
from atlasmith.io.tables import read_cohort

WARM_UP = 2  # images


def one_by_one(
    results: Path, images: Sequence[Path], covariates: dict[str, str], out: Path, fast: bool
) -> None:
    """Predict as `predict_all`, one image after another."""
    run = open_run(results)
    with keep_in_memory(run.config.output):
        for scan in find_scans(run.config, images, covariates):
            predict_scan(run, scan, out, segment=True, fast=fast)


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("images", type=Path, nargs="+")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--fast", action="store_true", help="by the student alone")
    parser.add_argument("--alone", action="store_true", help="one after another, by all threads")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config = load_config(options.results / "config.yaml")
    atlases = sum(scan.role == "atlas" for scan in read_cohort(options.results / "cohort.tsv"))
    first, others = options.images[:WARM_UP], options.images[WARM_UP:]
    with tempfile.TemporaryDirectory() as folder:
        predict = one_by_one if options.alone else predict_all
        predict(options.results, first, {}, Path(folder), fast=options.fast)
        wall, cpu = time.perf_counter(), time.process_time()
        predict(options.results, others, {}, Path(folder), fast=options.fast)
        wall, cpu = (
            (end - start) / len(others)
            for start, end in zip((wall, cpu), (time.perf_counter(), time.process_time()), strict=True)
        )
    print_header("images", "atlases", "threads", "s each", "s of CPU each")
    print_row(len(others), atlases, options.threads, f"{wall:.2f}", f"{cpu:.2f}")
    each = "each alone" if options.alone else "each of many"
    note = f"{each}, {atlases} atlases, {options.threads} threads, warm process"
    record = Record(options.record, dataset=config.template.name.lower(), note=note, n=len(others))
    record.add(
        "scaling",
        "predict --fast" if options.fast else "predict",
        {"time_s": wall, "cpu_s": cpu},
        seconds=wall,
    )


if __name__ == "__main__":
    main()
