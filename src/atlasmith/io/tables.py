"""Tab-separated tables after BIDS: `n/a` stands for a missing value."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from atlasmith.core.errors import AtlasmithError
from atlasmith.io.files import atomic_write
from atlasmith.io.layout import SUBPOPULATIONS

MISSING = "n/a"
COLUMNS = (
    "participant_id",
    "role",
    "image",
    "labels",
    "in_template",
)  # of the checked cohort, then covariates
# In place of a label, in rows of scores.
MEAN = "mean"  # of the mean over labels
ALL = "all"  # of all labels together
SUBPOPULATION = "subpopulation"  # the covariate that is found in the images, not given


def read_tsv(path: str | Path) -> list[dict[str, str]]:
    """Rows as text, one dict a row, keyed by the header line."""
    with Path(path).open(encoding="utf-8-sig", newline="") as file:
        return [
            {key: value for key, value in row.items() if key} for row in csv.DictReader(file, delimiter="\t")
        ]


def format_value(value: Any) -> str:
    """Floats in nine digits (enough for float32), None and NaN as `n/a`."""
    if value is None or value != value:
        return MISSING
    return f"{value:.9g}" if isinstance(value, float) else str(value)


def write_tsv(path: str | Path, rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Each of `rows` as it comes, so that they need not all be in memory."""
    with atomic_write(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([format_value(row.get(column)) for column in columns] for row in rows)


def read_label_values(path: str | Path) -> list[int]:
    """The labels of a table with the column `index`, sorted, without background."""
    return sorted({int(row["index"]) for row in read_tsv(path)} - {0})


@dataclass(frozen=True)
class Subject:
    """One row of the checked cohort.

    id: without `sub-`. role: atlas, target or train. labels: None where there are none.
    covariates: a number (continuous), a text (categorical) or None (missing), by name.
    builds: takes part in making the template.
    """

    id: str
    role: str
    image: Path
    labels: Path | None = None
    covariates: dict[str, float | str | None] = field(default_factory=dict)
    in_template: bool = True


def write_cohort(path: str | Path, subjects: Sequence[Subject], covariates: Sequence[str]) -> None:
    rows = [
        {
            "participant_id": f"sub-{subject.id}",
            "role": subject.role,
            "image": subject.image,
            "labels": subject.labels,
            "in_template": "yes" if subject.in_template else "no",
            **subject.covariates,
        }
        for subject in subjects
    ]
    write_tsv(path, rows, [*COLUMNS, *covariates])


def read_cohort(path: str | Path) -> list[Subject]:
    """The checked cohort, in the order of the ids; with people's subpopulations, once they are found."""
    if not Path(path).exists():
        raise AtlasmithError(f"{path} is missing. Run `atlasmith cohort` first.")
    found = Path(path).with_name(SUBPOPULATIONS)
    subpopulations = {row.pop("participant_id"): row for row in read_tsv(found)} if found.exists() else {}
    return [
        Subject(
            id=row["participant_id"].removeprefix("sub-"),
            role=row["role"],
            image=Path(row["image"]),
            labels=None if row["labels"] == MISSING else Path(row["labels"]),
            covariates={
                name: parse_covariate(value)
                for name, value in {**row, **subpopulations.get(row["participant_id"], {})}.items()
                if name not in COLUMNS
            },
            in_template=row["in_template"] == "yes",
        )
        for row in read_tsv(path)
    ]


def parse_covariate(value: str) -> float | str | None:
    """A number where the text is one, None where it is missing, else the text."""
    if value in (MISSING, ""):
        return None
    try:
        return float(value)
    except ValueError:
        return value
