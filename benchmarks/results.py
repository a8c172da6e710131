"""The record of measured figures: one CSV file a topic in `benchmarks/results/`, one row a figure.

| column | content |
|---|---|
| `dataset` | the cohort: `hippocampus`, `oasis2d`, `brain`, `demo`, or the name of a synthetic one |
| `method` | the method or tool that is measured, or the setting that is changed |
| `metric` | the quantity, named as in docs/metrics.md where it stands there |
| `value` | the figure, a number |
| `ci_low`, `ci_high` | 95 % interval, bootstrapped over subjects |
| `unit` | unit of value and interval, `1` if there is none |
| `n` | number of subjects, targets or pairs that the value is a mean over |
| `seconds` | computing time of the method for one of these, or for the whole where there is one result |
| `hardware` | processor, and what else ran on it |
| `version`, `commit` | of the package; the commit that recorded the figure where that measured is unknown |
| `date` | on which the figure was recorded |
| `command` | what gives the figure; empty where a script was not kept |
| `note` | the protocol of the evaluation |

A row is identified by dataset, method, metric and note. A note may end in ` | VARIANT`, which names one of
several settings of one protocol. A note that starts with `superseded` belongs to an older figure that is kept
for comparison.
"""

from __future__ import annotations

import csv
import math
import os
import platform
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from datetime import date
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import atlasmith

ROOT = Path(__file__).parents[1]
FOLDER = Path(__file__).with_suffix("")
COLUMNS = (
    *("dataset", "method", "metric", "value", "ci_low", "ci_high", "unit", "n", "seconds"),
    *("hardware", "version", "date", "commit", "command", "note"),
)
KEY = ("dataset", "method", "metric", "note")
REQUIRED = ("dataset", "method", "metric", "value", "unit", "version", "date", "commit")
NUMBERS = ("value", "ci_low", "ci_high", "n", "seconds")
Row = dict[str, str]


def key_of(row: Mapping[str, str]) -> tuple[str, ...]:
    """Return what identifies a figure: dataset, method, metric and note."""
    return tuple(row[column] for column in KEY)


def check_row(row: Mapping[str, str]) -> None:
    """Check one complete row against the schema.

    Args:
        row: Text of each of `COLUMNS`.

    Raises:
        ValueError: If columns are missing or unknown, a required cell is empty, a number is not one, the
            interval does not contain the value, or the date is not an ISO date.
    """
    if set(row) != set(COLUMNS):
        raise ValueError(f"columns missing or unknown: {sorted(set(row) ^ set(COLUMNS))}")
    name = ", ".join(key_of(row))
    if empty := [column for column in REQUIRED if not row[column]]:
        raise ValueError(f"{name}: no {', '.join(empty)}")
    numbers = {column: float(row[column]) for column in NUMBERS if row[column]}
    if not all(math.isfinite(number) for number in numbers.values()):
        raise ValueError(f"{name}: a number is not finite")
    if ("ci_low" in numbers) != ("ci_high" in numbers):
        raise ValueError(f"{name}: an interval has two ends")
    low, high = (numbers.get(column, numbers["value"]) for column in ("ci_low", "ci_high"))
    if not low <= numbers["value"] <= high:
        raise ValueError(f"{name}: {row['value']} lies outside its interval, {low} to {high}")
    date.fromisoformat(row["date"])


def read_rows(path: Path) -> list[Row]:
    """Read the figures of one file.

    Args:
        path: CSV file with the header `COLUMNS`.

    Returns:
        One dictionary a figure, in the order of the file.

    Raises:
        ValueError: If the header is another, a row breaks the schema, or two rows have the same key.
    """
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise ValueError(f"{path}: the columns are {reader.fieldnames}, not {list(COLUMNS)}")
        rows = [dict(row) for row in reader]
    keys = set()
    for row in rows:
        check_row(row)
        if key_of(row) in keys:
            raise ValueError(f"{path}: two rows of {', '.join(key_of(row))}")
        keys.add(key_of(row))
    return rows


def append_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Add figures to a file, in the place of older ones with the same key.

    Version, date, commit and hardware are those of this process where a row does not give them; the unit is
    `1`, and every other missing cell is empty. The file is replaced as a whole or not at all.

    Args:
        path: CSV file; it is made if it does not exist.
        rows: Figures, with at least dataset, method, metric and value.

    Raises:
        ValueError: If a row breaks the schema; the file is left as it was.

    Example:
        >>> path = Path("segmentation.csv")
        >>> figure = {"dataset": "demo", "method": "majority", "metric": "dice", "value": 0.9}
        >>> append_rows(path, [figure])  # doctest: +SKIP
    """
    merged = {key_of(row): row for row in (read_rows(path) if path.exists() else [])}
    defaults = dict.fromkeys(COLUMNS, "") | {"unit": "1"} | describe_run()
    for given in rows:
        row = defaults | {column: _text(cell) for column, cell in given.items()}
        check_row(row)
        merged[key_of(row)] = row
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        "w", newline="", encoding="utf-8", dir=path.parent, suffix=".part", delete=False
    ) as file:
        try:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(merged.values())
            file.close()
            os.chmod(file.name, 0o644)
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


def describe_run() -> Row:
    """Return version, date, commit and hardware of this process."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return {
        "version": atlasmith.__version__,
        "date": date.today().isoformat(),
        "commit": commit.stdout.strip() or "unknown",
        "hardware": describe_hardware(),
    }


def describe_hardware() -> str:
    """Return a short description of the processor, and of the GPU where there is one."""
    import torch  # only where a figure is written: reading the record does without

    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parts = [f"{cores} CPU core{'s' if cores != 1 else ''} ({model})"]
    if torch.cuda.is_available():
        parts.append(torch.cuda.get_device_name())
    return ", ".join(parts)


def _text(cell: Any) -> str:
    """Return a cell as text, floats with six significant digits."""
    if cell is None:
        return ""
    return f"{cell:.6g}" if isinstance(cell, Real) and not isinstance(cell, Integral) else str(cell)
