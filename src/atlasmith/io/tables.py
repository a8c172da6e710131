"""Tab-separated tables after BIDS, where `n/a` stands for a missing value, and the checked cohort."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from atlasmith.core.errors import AtlasmithError, InputError, Problem
from atlasmith.io.columns import describe_columns
from atlasmith.io.failures import has_failed, read_failures
from atlasmith.io.files import atomic_write, require, write_json
from atlasmith.io.layout import FAILURES, SUBPOPULATIONS, sidecar_path

MISSING = "n/a"
TOP_CODED_AGE = "89+"  # years; BIDS hides higher ones
SCAN_COLUMNS = ("participant_id", "session_id")  # that name a scan in every table
COLUMNS = (*SCAN_COLUMNS, "role", "image", "labels", "in_template")  # of the cohort; covariates follow
OPTIONAL_COLUMNS = ("mask", "exclude")  # of the cohort, where a subject has such a file
CHANNEL_COLUMN = "image_"  # followed by the channel, where there are several
SUBPOPULATION = "subpopulation"  # the covariate that is derived from the images
# In the column `label` of scores:
MEAN = "mean"  # the mean over labels
ALL = "all"  # all labels together


def read_tsv(path: str | Path) -> list[dict[str, str]]:
    """Read a table. Quotation marks are text, since BIDS tables aren't quoted; empty lines are skipped.

    Args:
        path: A tab-separated file in UTF-8 with a header line.

    Returns:
        A dict of texts per row, keyed by the header; columns without name are left out.

    Raises:
        InputError: If this is no text in UTF-8, a column occurs twice, or rows have more or fewer cells than
            the header.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")  # line ends of any system become \n
    except UnicodeDecodeError as error:
        found = f"this is no text in UTF-8 ({error})"
        raise InputError([Problem(path, found, "Save it as tab-separated text in UTF-8.")]) from None
    header, *rows = [line.split("\t") for line in text.split("\n") if line] or [[""]]
    problems = [
        Problem(path, f"there are {count} columns '{name}'", "Remove or rename all but one.")
        for name, count in Counter(filter(None, header)).items()
        if count > 1
    ]
    problems += [
        Problem(
            f"{path}: row {number}",
            f"it has {len(row)} cells, and the header has {len(header)}: {row}",
            "Divide cells by one tab each, and write n/a where a value is missing.",
        )
        for number, row in enumerate(rows, start=1)
        if len(row) != len(header)
    ]
    if problems:
        raise InputError(problems)
    return [{key: value for key, value in zip(header, row, strict=True) if key} for row in rows]


def format_value(value: Any) -> str:
    """Format floats in nine digits (enough for float32), None and NaN as `n/a`."""
    if value is None or value != value:
        return MISSING
    return f"{value:.9g}" if isinstance(value, float) else str(value)


def write_tsv(path: str | Path, rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Write a table, and the sidecar that describes its columns.

    Args:
        path: The file.
        rows: Values by column; missing ones become `n/a`. They are consumed one by one.
        columns: The header.
    """
    if not Path(path).name.endswith("dseg.tsv"):  # it shares the label image's; BIDS defines its columns
        write_json(sidecar_path(Path(path)), describe_columns(columns))
    with atomic_write(path) as partial, partial.open("w", encoding="utf-8", newline="\n") as file:
        file.write("\t".join(columns) + "\n")
        for row in rows:
            cells = [format_value(row.get(column)) for column in columns]
            if broken := [cell for cell in cells if re.search(r"[\t\r\n]", cell)]:
                raise AtlasmithError(f"{path}: {broken[0]!r} has a tab or a line break. Rename it.")
            file.write("\t".join(cells) + "\n")


def scan_columns(scan: str) -> dict[str, str]:
    """Make the values of `SCAN_COLUMNS` of a scan's id without `sub-`.

    Example:
        >>> scan_columns("01_ses-02")
        {'participant_id': 'sub-01', 'session_id': 'ses-02'}
    """
    participant, _, session = f"sub-{scan}".partition("_")
    return {"participant_id": participant, "session_id": session or MISSING}


def scan_id(row: Mapping[str, str]) -> str:
    """Read a scan's id, without `sub-`, from its row of a table.

    Example:
        >>> scan_id({"participant_id": "sub-01", "session_id": "ses-02"})
        '01_ses-02'
    """
    session = row.get("session_id", MISSING)
    return row["participant_id"].removeprefix("sub-") + ("" if session == MISSING else f"_{session}")


def participant_of(scan: str) -> str:
    """Return the participant's id of a scan's id, both without `sub-`.

    Scans of one participant are no independent data: they stay on one side of every split.

    Example:
        >>> participant_of("01_ses-02"), participant_of("01")
        ('01', '01')
    """
    return scan.split("_")[0]


def positions_by_participant(scans: Sequence[str]) -> list[list[int]]:
    """Return the positions of the scans of each participant, in the order in which participants come.

    Args:
        scans: Ids of scans, or of their participants.

    Example:
        >>> positions_by_participant(["02_ses-1", "01_ses-1", "02_ses-2"])
        [[0, 2], [1]]
    """
    positions: dict[str, list[int]] = {}
    for position, scan in enumerate(scans):
        positions.setdefault(participant_of(scan), []).append(position)
    return list(positions.values())


def matching_scans(scans: Iterable[str], name: str) -> list[str]:
    """Return the scans that a name stands for: a scan, or all scans of a participant.

    Args:
        scans: Ids without `sub-`.
        name: An id, with or without `sub-`.

    Example:
        >>> matching_scans(["01_ses-01", "01_ses-02", "02"], "sub-01")
        ['01_ses-01', '01_ses-02']
    """
    name = name.removeprefix("sub-")
    return [scan for scan in scans if name in (scan, participant_of(scan))]


def read_label_values(path: str | Path) -> list[int]:
    """Read the labels of a table with the column `index`, sorted, without background."""
    return sorted({int(row["index"]) for row in read_tsv(path)} - {0})


@dataclass(frozen=True)
class Subject:
    """One subject of the checked cohort.

    Attributes:
        id: Of the scan, without `sub-`: `01`, or with a session `01_ses-02`.
        role: atlas, target or train.
        image: The image file, in a cohort of several channels the first that there is.
        labels: The label file; None where there is none.
        covariates: A number (continuous), a text (categorical) or None (missing), by name.
        in_template: Whether the subject takes part in building the template.
        channels: Image files by channel, in the config's order, those that there are; empty in a cohort of
            one channel.
        mask: Where the image may be looked at; None: everywhere.
        exclude: What may not be learned from; None: nothing.
    """

    id: str
    role: str
    image: Path
    labels: Path | None = None
    covariates: dict[str, float | str | None] = field(default_factory=dict)
    in_template: bool = True
    channels: dict[str, Path] = field(default_factory=dict)
    mask: Path | None = None
    exclude: Path | None = None

    @property
    def participant(self) -> str:
        """The participant's id without `sub-`, which all sessions of a participant share."""
        return participant_of(self.id)

    @property
    def files(self) -> list[Path]:
        """All its input files: images, labels, and masks."""
        images = self.channels.values() or [self.image]
        return [*images, *(path for path in (self.labels, self.mask, self.exclude) if path is not None)]


def atlases_for(subject: Subject, subjects: Iterable[Subject]) -> list[Subject]:
    """Return the atlases that a scan may be segmented by: those of other participants.

    Labels of another scan of the same participant would make a segmentation look better than that of a
    participant without labels, and bias all that is learned or scored.

    Args:
        subject: The scan.
        subjects: The cohort.
    """
    return [s for s in subjects if s.role == "atlas" and s.participant != subject.participant]


def write_cohort(path: str | Path, subjects: Sequence[Subject], covariates: Sequence[str]) -> None:
    """Write the checked cohort.

    Args:
        path: The file.
        subjects: Its rows.
        covariates: Names of the covariates, as columns after `COLUMNS`.
    """
    rows = [
        {
            **scan_columns(subject.id),
            "role": subject.role,
            "image": subject.image,
            "labels": subject.labels,
            "in_template": "yes" if subject.in_template else "no",
            "mask": subject.mask,
            "exclude": subject.exclude,
            **{CHANNEL_COLUMN + channel: file for channel, file in subject.channels.items()},
            **subject.covariates,
        }
        for subject in subjects
    ]
    channels = dict.fromkeys(CHANNEL_COLUMN + name for subject in subjects for name in subject.channels)
    optional = [name for name in OPTIONAL_COLUMNS if any(row[name] for row in rows)]
    write_tsv(path, rows, [*COLUMNS, *optional, *channels, *covariates])


def read_cohort(path: str | Path, passed: str | None = None) -> list[Subject]:
    """Read the checked cohort, with the subjects' subpopulations once they are found.

    Args:
        path: A file of `write_cohort`.
        passed: A stage that runs for each subject; those that failed in it, or before, are left out.

    Returns:
        Subjects in the file's order.

    Raises:
        AtlasmithError: If there is no such file.
    """
    found = require(Path(path), "cohort").with_name(SUBPOPULATIONS)
    subpopulations = {scan_id(row): row for row in read_tsv(found)} if found.exists() else {}
    failures = read_failures(Path(path).with_name(FAILURES)) if passed else {}
    subjects = [
        Subject(
            id=scan_id(row),
            role=row["role"],
            image=Path(row["image"]),
            labels=_parse_path(row, "labels"),
            covariates={
                name: parse_covariate(value)
                for name, value in {**row, **subpopulations.get(scan_id(row), {})}.items()
                if name not in (*COLUMNS, *OPTIONAL_COLUMNS) and not name.startswith(CHANNEL_COLUMN)
            },
            in_template=row["in_template"] == "yes",
            channels={
                name.removeprefix(CHANNEL_COLUMN): Path(value)
                for name, value in row.items()
                if name.startswith(CHANNEL_COLUMN) and value != MISSING
            },
            mask=_parse_path(row, "mask"),
            exclude=_parse_path(row, "exclude"),
        )
        for row in read_tsv(path)
    ]
    return [s for s in subjects if passed is None or not has_failed(failures, s.id, passed)]


def _parse_path(row: Mapping[str, str], column: str) -> Path | None:
    value = row.get(column, MISSING)
    return None if value == MISSING else Path(value)


def parse_covariate(value: str) -> float | str | None:
    """Convert text to a number where it is one, to None where it is missing.

    BIDS writes ages above 89 years as `89+`, which counts as 89.

    Example:
        >>> [parse_covariate(value) for value in ("72.5", "F", "n/a", "89+", "1_000")]
        [72.5, 'F', None, 89.0, '1_000']
    """
    if value in (MISSING, ""):
        return None
    if value == TOP_CODED_AGE:
        return 89.0
    try:
        return value if "_" in value else float(value)  # for Python, 1_000 is a number
    except ValueError:
        return value
