"""The same registration tasks for every network, parametrization and optimizer, at equal budgets.

    python benchmarks/exam.py results-hippocampus --folder exam-hippocampus --record
    python benchmarks/exam.py results-oasis2d --folder exam-oasis2d --atlases 10 --targets 20
    python benchmarks/exam.py results-demo --folder exam-demo --only adam convex_adam

Each network is trained for `--training` steps from the affine alignment to the template of a finished run;
then atlases and targets are registered to it, without and with `--steps` steps of instance optimization, and
every atlas is propagated to every target through the template. A parametrization is that of the default
network and of the optimization after it. An optimizer starts from the default network, and once more from
the affine alignment. Other tools, where they are installed (`pip install .[peers]`), register the same
aligned images to the same template. Prints a Markdown table: Dice and HD95 of single atlases on the targets'
own grids with 95 % intervals over targets, folding, inverse consistency, CPU seconds, memory and parameters;
for the demo cohort also the distance from the planted warps.

An entry that is in the folder already isn't computed again; each runs in a process of its own on one core.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from exam_task import Entry, Task
from figures import Figure, Record, make_parser, print_header, print_row
from peers import ALIGNED

from atlasmith.config import load_config
from atlasmith.evaluation import statistics
from atlasmith.io.files import atomic_write
from atlasmith.networks import NETWORKS
from atlasmith.optimization import OPTIMIZERS
from atlasmith.transforms import PARAMETRIZATIONS

Interval = tuple[float, float, float]  # a mean with its 95 % interval

DEFAULT = "unet_half"  # the network with which all entries are compared
COLUMNS = {"alone": "network alone", "optimized": "instance optimization"}
# Variants that a setting makes of an entry.
VARIANTS: list[Entry] = [
    # Without that term it folds at the border, and no candidate of the optimization is taken.
    Entry(
        "parametrization",
        "bspline_displacement, folding 10",
        parametrization="bspline_displacement",
        regularization={"folding": {"weight": 10.0}},
    ),
    Entry("network", "unet_half, 2 cascades", cascades=2),
    Entry("optimizer", "adam, 3 levels", optimizer_settings={"levels": 3}),
    Entry("optimizer", "adam, no smoothing", optimizer_settings={"smoothing": 0.0}),
    Entry(
        "optimizer",
        "adam, smooth to the end",
        optimizer_settings={"levels": 2, "last_smoothing": 1.0},
        factor=0.25,
    ),
]


def entries() -> list[Entry]:
    """List the rows: all entries of the three tables, variants, optimizers from the affine, and peers."""
    found = [Entry("network", name, network=name) for name in NETWORKS]
    found += [Entry("parametrization", name, parametrization=name) for name in PARAMETRIZATIONS]
    found += [Entry("optimizer", name, optimizer=name) for name in OPTIMIZERS]
    found += VARIANTS
    from_affine = [e for e in found if e.kind == "optimizer"]
    peers = [Entry("peer", name, trained=False, peer=name) for name in ALIGNED]
    return [
        *found,
        *(
            Entry(
                "optimizer",
                f"{e.name}, from the affine",
                optimizer=e.optimizer,
                optimizer_settings=e.optimizer_settings,
                factor=e.factor,
                trained=False,
            )
            for e in from_affine
        ),
        *peers,
    ]


def run_entries(chosen: Sequence[Entry], options: argparse.Namespace) -> None:
    """Run those entries that the folder doesn't have, each in a process of its own."""

    def run(entry: Entry) -> None:
        command = [sys.executable, __file__, str(options.run), "--entry", entry.name, "--kind", entry.kind]
        command += ["--folder", str(options.folder), "--training", str(options.training)]
        command += ["--steps", str(options.steps)]
        for name in ("atlases", "targets"):
            if getattr(options, name) is not None:
                command += [f"--{name}", str(getattr(options, name))]
        log = options.folder / f"{entry.file}.log"
        with log.open("w") as output:
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            code = subprocess.run(command, stdout=output, stderr=output, env=environment).returncode
        print(f"{entry.kind} {entry.name}: {'done' if code == 0 else f'failed, see {log}'}", flush=True)

    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(run, (e for e in chosen if not (options.folder / f"{e.file}.json").exists())))


def run_entry(entry: Entry, options: argparse.Namespace) -> None:
    """Run one entry in this process, and write its result."""
    task = Task(options.run, options.atlases, options.targets)
    result = task.run(entry, options.training, options.steps, options.folder)
    protocol = {"atlases": len(task.atlases), "targets": len(task.targets), "training": options.training}
    with atomic_write(options.folder / f"{entry.file}.json") as partial:
        partial.write_text(json.dumps(result | protocol | {"steps": options.steps}))


def mean_of(values: Any) -> Interval:
    """Summarize values of targets by their mean with the 95 % interval."""
    found = statistics.summary(np.array(values, dtype=float), 0, 2000)
    return found["mean"], found["ci95_low"], found["ci95_high"]


def figures_of(result: dict[str, Any], default: dict[str, Any] | None, column: str) -> dict[str, Interval]:
    """Summarize a column of a result by metric, and how far Dice or the distance from the planted warps are
    from the default's, over the same targets."""
    scores = result[column]["scores"]
    figures = {name: mean_of(values) for name, values in scores.items()}
    if default is not None:
        main = main_metric(result)
        own, other = (np.array(x[column]["scores"][main], dtype=float) for x in (result, default))
        figures[f"{main}_difference"] = mean_of(own - other)
    return figures


def main_metric(result: dict[str, Any]) -> str:
    """Return the metric by which entries are compared."""
    return "tre_median_mm" if "tre_median_mm" in result["alone"]["scores"] else "dice"


def print_table(chosen: Sequence[Entry], options: argparse.Namespace) -> None:
    """Print the entries that are there, the most accurate first, and record them."""
    paths = {entry: options.folder / f"{entry.file}.json" for entry in chosen}
    results = {entry: json.loads(path.read_text()) for entry, path in paths.items() if path.exists()}
    main = next(map(main_metric, results.values()), "dice")
    sign = -1 if main == "dice" else 1  # 1 where less is better
    known = options.folder / f"{Entry('network', DEFAULT).file}.json"
    default = json.loads(known.read_text()) if known.exists() else None
    rows = {entry: [figures_of(x, default, column) for column in COLUMNS] for entry, x in results.items()}
    affine = next((alone[main][0] for entry, (alone, _) in rows.items() if not entry.trained), None)
    print_header(
        *("choice", "entry", *(f"{main}, {text}" for text in COLUMNS.values()), f"less {DEFAULT}'s"),
        *("hd95_mm", "folding %", "inverse error mm", "s a training step", "s a subject"),
        *("peak GiB", "parameters"),
    )
    dataset = options.dataset or load_config(options.run / "config.yaml").cohort.bids.name
    for entry, (alone, optimized) in sorted(rows.items(), key=lambda row: sign * row[1][1][main][0]):
        result = results[entry]
        texts = [f"{x:.4f} ({low:.3f} to {high:.3f})" for x, low, high in (alone[main], optimized[main])]
        difference = optimized.get(f"{main}_difference", [np.nan] * 3)
        texts.append("{:+.4f} ({:+.4f} to {:+.4f})".format(*difference))
        short = {name: f"{figure[0]:.3f}" for name, figure in optimized.items()}
        print_row(
            *(entry.kind, entry.name, *texts, short.get("hd95_mm", "")),
            *(short["nonpositive_jacobian_percent"], short["inverse_consistency_mm"]),
            *(f"{result['training_step_s']:.2f}", f"{result['optimized']['subject_s']:.2f}"),
            *(f"{result['peak_gib']:.2f}", f"{result['parameters']:,}"),
        )
        if affine is not None and sign * (optimized[main][0] - affine) > 0:
            print(f"worse than the affine alignment: {entry.kind} {entry.name}", file=sys.stderr)
        if options.record:
            record(entry, result, {"alone": alone, "optimized": optimized}, dataset)


def record(
    entry: Entry, result: dict[str, Any], columns: dict[str, dict[str, Interval]], dataset: str
) -> None:
    """Add the figures of an entry to `benchmarks/results/exam.csv`."""
    topic = Record(True, dataset=dataset, n=result["targets"], hardware="1 CPU core, second core busy")
    costs = {"parameters": result["parameters"], "peak_gib": result["peak_gib"]}
    costs["training_step_s"] = result["training_step_s"]
    for column, steps in (("alone", 0), ("optimized", result["steps"])):
        figures: dict[str, Figure] = {**columns[column], **(costs if column == "optimized" else {})}
        known = {name: x for name, x in figures.items() if np.isfinite(np.ravel(x)).all()}
        topic.add(
            "exam",
            f"{entry.kind}: {entry.name}",
            known,
            seconds=result[column]["subject_s"],
            note=f"{result['atlases']} atlases, {result['targets']} targets, {result['training']} training "
            f"steps, {steps} steps of instance optimization",
        )


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("run", type=Path, help="a finished output folder")
    parser.add_argument("--folder", type=Path, required=True, help="where the entries' results go")
    parser.add_argument("--atlases", type=int, help="number of atlases; all without")
    parser.add_argument("--targets", type=int, help="number of targets; all without")
    parser.add_argument("--training", type=int, default=300, help="training steps of a network")
    parser.add_argument("--steps", type=int, default=40, help="steps of instance optimization")
    parser.add_argument("--jobs", type=int, default=1, help="entries at once, a core each")
    parser.add_argument("--only", nargs="*", help="names of entries; all without")
    parser.add_argument("--kinds", nargs="*", help="kinds of entries; all without")
    parser.add_argument("--dataset", help="its name in the record; that of the cohort's folder without")
    parser.add_argument("--entry", help=argparse.SUPPRESS)
    parser.add_argument("--kind", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.entry:
        run_entry(next(e for e in entries() if (e.kind, e.name) == (options.kind, options.entry)), options)
        return
    chosen = [
        e
        for e in entries()
        if (options.only is None or e.name in options.only)
        and (options.kinds is None or e.kind in options.kinds)
    ]
    run_entries(chosen, options)
    print_table(chosen, options)


if __name__ == "__main__":
    main()
