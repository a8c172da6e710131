"""Tab-separated tables after BIDS, where `n/a` stands for a missing value, and the checked cohort."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from atlasmith.io.files import atomic_write, require
from atlasmith.io.layout import SUBPOPULATIONS

MISSING = "n/a"
COLUMNS = ("participant_id", "role", "image", "labels", "in_template")  # of the cohort; covariates follow
SUBPOPULATION = "subpopulation"  # the covariate that is derived from the images
# In the column `label` of scores:
MEAN = "mean"  # the mean over labels
ALL = "all"  # all labels together


def read_tsv(path: str | Path) -> list[dict[str, str]]:
    """Read a table.

    Args:
        path: A tab-separated file in UTF-8 with a header line.

    Returns:
        A dict of texts per row, keyed by the header.
    """
    with Path(path).open(encoding="utf-8-sig", newline="") as file:
        return [
            {key: value for key, value in row.items() if key} for row in csv.DictReader(file, delimiter="\t")
        ]


def format_value(value: Any) -> str:
    """Format floats in nine digits (enough for float32), None and NaN as `n/a`."""
    if value is None or value != value:
        return MISSING
    return f"{value:.9g}" if isinstance(value, float) else str(value)


def write_tsv(path: str | Path, rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Write a table.

    Args:
        path: The file.
        rows: Values by column; missing ones become `n/a`. They are consumed one by one.
        columns: The header.
    """
    with atomic_write(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([format_value(row.get(column)) for column in columns] for row in rows)


def read_label_values(path: str | Path) -> list[int]:
    """Read the labels of a table with the column `index`, sorted, without background."""
    return sorted({int(row["index"]) for row in read_tsv(path)} - {0})


@dataclass(frozen=True)
class Subject:
    """One subject of the checked cohort.

    Attributes:
        id: Without `sub-`.
        role: atlas, target or train.
        image: The image file.
        labels: The label file; None where there is none.
        covariates: A number (continuous), a text (categorical) or None (missing), by name.
        in_template: Whether the subject takes part in building the template.
    """

    id: str
    role: str
    image: Path
    labels: Path | None = None
    covariates: dict[str, float | str | None] = field(default_factory=dict)
    in_template: bool = True


def write_cohort(path: str | Path, subjects: Sequence[Subject], covariates: Sequence[str]) -> None:
    """Write the checked cohort.

    Args:
        path: The file.
        subjects: Its rows.
        covariates: Names of the covariates, as columns after `COLUMNS`.
    """
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
    """Read the checked cohort, with the subjects' subpopulations once they are found.

    Args:
        path: A file of `write_cohort`.

    Returns:
        Subjects in the file's order.

    Raises:
        AtlasmithError: If there is no such file.
    """
    found = require(Path(path), "cohort").with_name(SUBPOPULATIONS)
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
    """Convert text to a number where it is one, to None where it is missing."""
    if value in (MISSING, ""):
        return None
    try:
        return float(value)
    except ValueError:
        return value
