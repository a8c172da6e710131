"""What the benchmarks share: their options, Markdown tables on the screen, and figures for the record."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from results import FOLDER, append_rows

# By the metric's suffix.
UNITS = {"_mm": "mm", "_percent": "%", "_s": "s", "_min": "min", "_gib": "GiB", "_mb": "MB"}
Figure = float | tuple[float, float, float]  # a value, perhaps with its 95 % interval


def make_parser(text: str | None) -> argparse.ArgumentParser:
    """Make the parser of a script whose docstring is `text`, with the option `--record`."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", action="store_true", help="add the figures to benchmarks/results/")
    return parser


def print_header(*columns: str) -> None:
    """Begin a Markdown table."""
    print(f"\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)


def print_row(*cells: object) -> None:
    """Continue a Markdown table."""
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


class Record:
    """Figures of this script, added to `benchmarks/results/` as soon as they are measured.

    Args:
        enabled: Whether to add them: the option `--record`.
        **cells: Cells that all figures share, such as `dataset` and `note`.
    """

    def __init__(self, enabled: bool, **cells: object) -> None:
        arguments = [argument for argument in sys.argv[1:] if argument != "--record"]
        command = shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *arguments])
        self._enabled, self._cells = enabled, {"command": command, **cells}

    def add(self, topic: str, method: str, figures: Mapping[str, Figure], **cells: object) -> None:
        """Add some figures of one method.

        Args:
            topic: Name of the CSV file, without `.csv`.
            method: The method or setting.
            figures: By metric, whose suffix gives the unit.
            **cells: Other cells of these rows, such as `n` and `seconds`.
        """
        if not self._enabled:
            return
        rows = []
        for metric, figure in figures.items():
            value, *interval = figure if isinstance(figure, tuple) else (figure,)
            unit = next((unit for suffix, unit in UNITS.items() if metric.endswith(suffix)), "1")
            bounds = dict(zip(("ci_low", "ci_high"), interval, strict=False))
            rows.append(
                self._cells
                | {"method": method, "metric": metric, "value": value, "unit": unit}
                | bounds
                | cells
            )
        append_rows(FOLDER / f"{topic}.csv", rows)
