"""Dice and HD95 of a finished run over chosen labels, from its own tables.

    python benchmarks/labels.py results-brain --ignore 15 42 43 63 64 65 66 74

Of the targets with manual labels, and of the atlases, each segmented by all others; means over the
labels that are not ignored, then over subjects, with the 95 % interval. The labels above are those that the
MICCAI 2012 challenge didn't score.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np

from atlasmith.config import load_config
from atlasmith.evaluation import statistics
from atlasmith.io.tables import ALL, MEAN, MISSING, read_tsv, scan_id
from atlasmith.report.results import number

STAGES, METRICS = ("fuse", "leave_one_out"), ("dice", "hd95_mm")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="a finished output folder")
    parser.add_argument("--ignore", type=int, nargs="*", default=[], help="labels that are left out")
    options = parser.parse_args()
    config = load_config(options.run / "config.yaml").model_copy(update={"output": options.run})
    values: dict[tuple[str, str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in read_tsv(config.layout.scores):
        of_label = row["label"] not in (MEAN, ALL, MISSING) and int(row["label"]) not in options.ignore
        if of_label and row["metric"] in METRICS and row["stage"] in STAGES:
            key = row["stage"], row["method"], row["metric"]
            values[key][scan_id(row)].append(number(row["value"]))
    print("| stage | method | metric | mean | 95 % interval | n |\n|---|---|---|---|---|---|")
    for key, by_subject in values.items():
        means = np.array([np.nanmean(scores) for scores in by_subject.values()])
        low, high = statistics.bootstrap_interval(means, config.seed, config.score.bootstrap)
        print(f"| {' | '.join(key)} | {means.mean():.4f} | {low:.4f} to {high:.4f} | {len(means)} |")


if __name__ == "__main__":
    main()
