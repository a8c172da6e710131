"""The new scans that are given to a finished run: files, folders of images, or BIDS datasets."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from atlasmith.cohort.finding import find_images
from atlasmith.cohort.problems import Problems
from atlasmith.cohort.scans import entities_of, scans_of
from atlasmith.config import Config
from atlasmith.core.errors import InputError, Problem
from atlasmith.io.tables import MISSING, participant_of, read_tsv, scan_id

PARTICIPANTS = "participants.tsv"


@dataclass(frozen=True)
class NewScan:
    """A scan that isn't of the run's cohort.

    Attributes:
        id: Without `sub-`: `01`, or with a session `01_ses-02`.
        images: Image files by channel.
        covariates: Values as text, by name.
        problems: Why the scan can't be processed; none as a rule.
    """

    id: str
    images: dict[str, Path]
    covariates: dict[str, str] = field(default_factory=dict)
    problems: Sequence[Problem] = ()


def find_scans(
    config: Config, inputs: Iterable[Path], given: Mapping[str, str], table: Path | None = None
) -> list[NewScan]:
    """Find the scans that some files and folders hold.

    Args:
        config: Of the finished run; its channels and entities tell which images count.
        inputs: Image files, folders of image files, or BIDS datasets.
        given: Covariates of all scans, as text, by name; they come before those of a table.
        table: Covariates of each scan, in a table like participants.tsv; None: that of a BIDS dataset.

    Returns:
        The scans, in the order of the inputs.

    Raises:
        InputError: For inputs without image, and images with the same id.
    """
    problems, files, found = Problems(), [], []
    known = {} if table is None else _read_table(table, problems)
    for path in inputs:
        if path.is_dir() and _is_bids(path):
            found += _scans_of_dataset(config, path, _read_table(path / PARTICIPANTS, problems))
        elif path.is_dir():
            inside = sorted(file for file in path.iterdir() if file.name.endswith((".nii", ".nii.gz")))
            if not inside:
                problems.add(path, "there is no NIfTI image in this folder", "Give images or a BIDS dataset.")
            files += inside
        else:
            files.append(path)
    found += _scans_of_files(config, files, problems)
    counts: dict[str, list[NewScan]] = {}
    for scan in found:
        counts.setdefault(scan.id, []).append(scan)
    for name, same in counts.items():
        if len(same) > 1:
            paths = ", ".join(str(path) for scan in same for path in scan.images.values())
            problems.add(f"sub-{name}", f"several images have this id: {paths}", "Rename them.")
    if problems:
        raise InputError(problems)
    return [_with_covariates(config, scan, known, given) for scan in found]


def _is_bids(folder: Path) -> bool:
    return (folder / "dataset_description.json").exists() or any(folder.glob("sub-*/"))


def _scans_of_dataset(
    config: Config, folder: Path, covariates: Mapping[str, dict[str, str]]
) -> list[NewScan]:
    cohort = config.cohort.model_copy(update={"bids": folder})
    config = config.model_copy(update={"cohort": cohort})
    participants = sorted(path.name.removeprefix("sub-") for path in folder.glob("sub-*/"))
    scans = []
    for scan in (scan for participant in participants for scan in scans_of(config, participant)):
        problems = Problems()
        images = find_images(config, [scan], problems).get(scan, {})
        new = NewScan(scan, images, problems=tuple(problems))
        scans.append(_with_covariates(config, new, covariates, {}))
    return scans


def _scans_of_files(config: Config, files: Sequence[Path], problems: Problems) -> list[NewScan]:
    """Group files by scan: with several channels, a file's suffix names its channel."""
    channels = config.cohort.channels
    scans: dict[str, dict[str, Path]] = {}
    for path in files:
        stem = path.name.removesuffix(".gz").removesuffix(".nii")
        channel = next((name for name in channels if stem.endswith(f"_{name}")), None)
        if len(channels) == 1:
            channel = channels[0]
        elif channel is None:
            names = " or ".join(f"{stem}_{name}.nii.gz" for name in channels)
            problems.add(path, "the name doesn't tell which channel this is", f"Call it {names}.")
            continue
        name = scan_name(path, channel if len(channels) > 1 else None)
        if channel in scans.get(name, {}):
            found = f"{scans[name][channel]} has the same id, sub-{name}"
            problems.add(path, found, "Rename one of them.")
        scans.setdefault(name, {})[channel] = path
    return [
        NewScan(name, {channel: images[channel] for channel in channels if channel in images})
        for name, images in scans.items()
    ]


def scan_name(path: Path, channel: str | None = None) -> str:
    """Return a scan's id from the name of an image.

    Args:
        path: The image.
        channel: A suffix that isn't part of the id.

    Returns:
        The entities `sub` and `ses` of a BIDS name, or else the letters and digits of the name.

    Example:
        >>> scan_name(Path("sub-01_ses-02_T1w.nii.gz")), scan_name(Path("my scan.nii"))
        ('01_ses-02', 'myscan')
    """
    stem = path.name.removesuffix(".gz").removesuffix(path.suffix).removesuffix(".nii")
    match = re.match(r"sub-([A-Za-z0-9]+)", stem)
    if match:
        session = entities_of(path).get("ses", "")
        return f"{match[1]}_ses-{session}" if re.fullmatch("[A-Za-z0-9]+", session) else match[1]
    return re.sub(r"[^A-Za-z0-9]", "", stem.removesuffix(f"_{channel}")) or "new"


def _read_table(path: Path, problems: Problems) -> dict[str, dict[str, str]]:
    """Read covariates by scan or participant; none where a dataset has no table."""
    if not path.exists():
        if path.name != PARTICIPANTS:
            problems.add(path, "there is no such table", "Give a table with the column participant_id.")
        return {}
    rows = read_tsv(path)
    if any("participant_id" not in row for row in rows):
        problems.add(path, "there is no column participant_id", "Name the scans in such a column.")
        return {}
    return {scan_id(row): row for row in rows}


def _with_covariates(
    config: Config, scan: NewScan, table: Mapping[str, dict[str, str]], given: Mapping[str, str]
) -> NewScan:
    """Add the run's covariates from a scan's row of a table, and then those that are given."""
    row = table.get(scan.id, table.get(participant_of(scan.id), {}))
    names = {*config.cohort.covariates, *config.template.conditions}
    values = {name: text for name, text in row.items() if name in names and text not in ("", MISSING)}
    return replace(scan, covariates={**scan.covariates, **values, **given})
