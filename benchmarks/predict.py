"""Time `atlasmith predict` of new images in a warm process.

    python benchmarks/predict.py RESULTS IMAGE... [--threads N] [--fast]

The first two images warm the process up and aren't counted. Prints seconds of wall time and of CPU for each
of the others, whose results go to a temporary folder.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import torch
from figures import Record, make_parser, print_header, print_row

from atlasmith.config import load_config
from atlasmith.inference import predict_all
from atlasmith.io.tables import read_cohort

WARM_UP = 2  # images


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("images", type=Path, nargs="+")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--fast", action="store_true", help="by the student alone")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config = load_config(options.results / "config.yaml")
    atlases = sum(scan.role == "atlas" for scan in read_cohort(options.results / "cohort.tsv"))
    first, others = options.images[:WARM_UP], options.images[WARM_UP:]
    with tempfile.TemporaryDirectory() as folder:
        predict_all(options.results, first, {}, Path(folder), fast=options.fast)
        wall, cpu = time.perf_counter(), time.process_time()
        predict_all(options.results, others, {}, Path(folder), fast=options.fast)
        wall, cpu = (
            (end - start) / len(others)
            for start, end in zip((wall, cpu), (time.perf_counter(), time.process_time()), strict=True)
        )
    print_header("images", "atlases", "threads", "s each", "s of CPU each")
    print_row(len(others), atlases, options.threads, f"{wall:.2f}", f"{cpu:.2f}")
    note = f"{atlases} atlases, {options.threads} threads, warm process"
    record = Record(options.record, dataset=config.template.name.lower(), note=note, n=len(others))
    record.add(
        "scaling",
        "predict --fast" if options.fast else "predict",
        {"time_s": wall, "cpu_s": cpu},
        seconds=wall,
    )


if __name__ == "__main__":
    main()
