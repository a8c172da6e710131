"""The same registration tasks for every network, parametrization and optimizer, at equal budgets.

    python benchmarks/exam.py results-hippocampus --folder exam-hippocampus --record
    python benchmarks/exam.py results-oasis2d --folder exam-oasis2d --atlases 10 --targets 20
    python benchmarks/exam.py results-demo --folder exam-demo --only adam convex_adam

Each network is trained for `--training` steps from the affine alignment to the template of a finished run;
then atlases and targets are registered to it, without and with `--steps` steps of instance optimization, and
every atlas is propagated to every target through the template. A parametrization is that of the default
network and of the optimization after it. An optimizer starts from the default network, and once more from
the affine alignment. Prints a Markdown table: Dice and HD95 of single atlases on the targets' own grids with
95 % intervals over targets, folding, inverse consistency, CPU seconds, memory and parameters; for the demo
cohort also the distance from the planted warps.

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

from atlasmith.evaluation import statistics
from atlasmith.io.files import atomic_write
from atlasmith.networks import NETWORKS
from atlasmith.optimization import OPTIMIZERS
from atlasmith.transforms import PARAMETRIZATIONS

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
]


def entries() -> list[Entry]:
    """List the rows: all entries of the three tables, variants, and the affine alignment."""
    found = [Entry("network", name, network=name) for name in NETWORKS]
    found += [Entry("parametrization", name, parametrization=name) for name in PARAMETRIZATIONS]
    found += [Entry("optimizer", name, optimizer=name) for name in OPTIMIZERS]
    found += VARIANTS
    from_affine = [e for e in found if e.kind == "optimizer"]
    return [
        *found,
        *(
            Entry(
                "optimizer",
                f"{e.name}, from the affine",
                optimizer=e.optimizer,
                optimizer_settings=e.optimizer_settings,
                trained=False,
            )
            for e in from_affine
        ),
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


def figures_of(result: dict[str, Any], column: str) -> dict[str, Figure]:
    """Summarize a column of a result: by metric, its mean over targets with the 95 % interval."""
    figures: dict[str, Figure] = {}
    for name, values in result[column]["scores"].items():
        found = statistics.summary(np.array(values, dtype=float), 0, 2000)
        figures[name] = found["mean"], found["ci95_low"], found["ci95_high"]
    return figures


def print_table(chosen: Sequence[Entry], options: argparse.Namespace) -> None:
    """Print the entries that are there, the most accurate first, and record them."""
    results = {
        e: json.loads(p.read_text()) for e in chosen if (p := options.folder / f"{e.file}.json").exists()
    }
    main = (
        "tre_median_mm" if any("tre_median_mm" in r["alone"]["scores"] for r in results.values()) else "dice"
    )
    affine = next((figures_of(r, "alone")[main][0] for e, r in results.items() if not e.trained), None)
    print_header(
        *(
            "choice",
            "entry",
            f"{main} alone",
            f"{main} optimized",
            "hd95_mm",
            "folding %",
            "inverse error mm",
        ),
        *("s a training step", "s a subject", "peak GiB", "parameters"),
    )

    def text(figure: Figure | None) -> str:
        if figure is None or not isinstance(figure, tuple):
            return ""
        return f"{figure[0]:.4f} ({figure[1]:.3f} to {figure[2]:.3f})"

    for entry, result in sorted(
        results.items(), key=lambda item: -np.nanmean(item[1]["optimized"]["scores"][main])
    ):
        alone, optimized = (figures_of(result, column) for column in COLUMNS)
        short = {name: f"{optimized[name][0]:.3f}" for name in optimized}  # type: ignore[index]
        print_row(
            *(entry.kind, entry.name, text(alone[main]), text(optimized[main]), short.get("hd95_mm", "")),
            *(short["nonpositive_jacobian_percent"], short["inverse_consistency_mm"]),
            *(f"{result['training_step_s']:.2f}", f"{result['optimized']['subject_s']:.2f}"),
            *(f"{result['peak_gib']:.2f}", f"{result['parameters']:,}"),
        )
        worse = -1 if main == "dice" else 1
        if affine is not None and worse * (optimized[main][0] - affine) > 1e-9:  # type: ignore[index,operator]
            print(f"BELOW THE AFFINE ALIGNMENT: {entry.kind} {entry.name}", file=sys.stderr)
        record = Record(
            options.record,
            dataset=options.dataset or Task(options.run, 0, 0).config.cohort.bids.name,
            n=result["targets"],
            hardware="1 CPU core, second core busy",
        )
        for column, figures in (("alone", alone), ("optimized", optimized)):
            count = result["steps"] if column == "optimized" else 0
            note = (
                f"{result['atlases']} atlases, {result['targets']} targets, {result['training']} training "
                f"steps, {count} steps of instance optimization"
            )
            extra: dict[str, Figure] = {"peak_gib": result["peak_gib"]} if column == "optimized" else {}
            record.add(
                "exam",
                f"{entry.kind}: {entry.name}",
                {
                    k: v
                    for k, v in (figures | extra).items()
                    if np.isfinite(v if isinstance(v, float) else v[0])
                },
                seconds=result[column]["subject_s"],
                note=note,
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
