"""The scans of a cohort: which there are, and the input files of each, chosen by BIDS entities."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from atlasmith.config import Config
from atlasmith.config.schema import Entities, EntityValue
from atlasmith.io.files import nifti_files
from atlasmith.io.tables import participant_of

LABELS, MASK = "dseg", "mask"  # suffixes


def scans_of(config: Config, participant: str) -> list[str]:
    """List a participant's scans.

    Args:
        config: The run's config.
        participant: Id without `sub-`.

    Returns:
        Ids without `sub-`: `01_ses-02` for each session with an image of any channel, or else `01`.
    """
    return [scan for scan in _sessions(config, participant) if is_wanted(config, scan)] or [participant]


def is_wanted(config: Config, scan: str) -> bool:
    """Return whether `cohort.entities` lets a scan's session through."""
    wanted = {key: values for key, values in config.cohort.entities.items() if key == "ses"}
    return bool(select([Path(f"sub-{scan}_any.nii")], wanted))


def _sessions(config: Config, participant: str) -> list[str]:
    """The scans of all sessions that have images."""
    names = sorted(path.name for path in (config.cohort.bids / f"sub-{participant}").glob("ses-*"))
    scans = [f"{participant}_{name}" for name in names if re.fullmatch("ses-[A-Za-z0-9]+", name)]
    return [scan for scan in scans if any(image_files(config, scan).values())]


def image_files(config: Config, scan: str) -> dict[str, list[Path]]:
    """List a scan's images by channel, before `cohort.entities` chooses among them."""
    return {channel: nifti_files(config.cohort.bids, scan, channel) for channel in config.cohort.channels}


def channels_of(config: Config, scan: str) -> list[str]:
    """List the channels that a scan has images of; the first one where there are none, which is a problem
    that the cohort's check reports."""
    files = image_files(config, scan)
    found = [channel for channel, paths in files.items() if select(paths, config.cohort.entities)]
    return found or [config.cohort.channels[0]]


def derivative_files(config: Config, folder: str | None, scan: str, suffix: str) -> list[Path]:
    """List a scan's files of a derivative, before entities choose among them.

    Args:
        config: The run's config.
        folder: The derivative, relative to `cohort.bids`; None has no files.
        scan: Id without `sub-`.
        suffix: Last part of the names.

    Returns:
        The files. Those that name no session belong to a participant's only scan.
    """
    if folder is None:
        return []
    found = nifti_files(config.cohort.bids / folder, scan, suffix)
    participant = participant_of(scan)
    if not found and scan != participant and _sessions(config, participant) == [scan]:
        return nifti_files(config.cohort.bids / folder, participant, suffix)
    return found


def input_files(config: Config, scan: str) -> list[Path]:
    """List the images and masks of a scan that the config's entities choose."""
    images = [path for paths in image_files(config, scan).values() for path in paths]
    folders = (config.cohort.masks, config.cohort.exclude)
    masks = [path for folder in folders for path in derivative_files(config, folder, scan, MASK)]
    return [*select(images, config.cohort.entities), *masks]


def label_files(config: Config, scan: str) -> list[Path]:
    """List the label files of a scan that the config's entities choose."""
    files = derivative_files(config, config.cohort.labels, scan, LABELS)
    return select(files, config.cohort.label_entities)


def entities_of(path: Path) -> dict[str, str]:
    """Read the entities of a BIDS name.

    Example:
        >>> entities_of(Path("sub-01_acq-mprage_run-2_T1w.nii.gz"))
        {'sub': '01', 'acq': 'mprage', 'run': '2'}
    """
    parts = (part.partition("-") for part in path.name.split(".")[0].split("_")[:-1])
    return {key: value for key, dash, value in parts if dash}


def select(paths: Iterable[Path], wanted: Entities) -> list[Path]:
    """Select the files whose names have some entities.

    Args:
        paths: Files with BIDS names.
        wanted: Of each entity the value, or several of which any will do; None: without that entity. Numbers
            are equal with and without leading zeros.

    Returns:
        The selected files, in their order.

    Example:
        >>> select([Path("sub-01_run-01_T1w.nii"), Path("sub-01_T1w.nii")], {"run": 1})[0].name
        'sub-01_run-01_T1w.nii'
    """
    return [
        path
        for path in paths
        if all(
            any(_equal(entities_of(path).get(key), value) for value in listed(values))
            for key, values in wanted.items()
        )
    ]


def listed(values: EntityValue | list[EntityValue]) -> list[EntityValue]:
    """Return one value or several as a list."""
    return values if isinstance(values, list) else [values]


def _equal(found: str | None, wanted: EntityValue) -> bool:
    if found is None or wanted is None:
        return found is wanted
    text = str(wanted)
    return found == text or (found.isdecimal() and text.isdecimal() and int(found) == int(text))
