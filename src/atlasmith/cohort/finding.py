"""Find the images, labels and masks of each scan, or say what lies there instead."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from atlasmith.cohort.problems import Problems, abbreviate
from atlasmith.cohort.scans import (
    LABELS,
    MASK,
    derivative_files,
    entities_of,
    image_files,
    listed,
    scans_of,
    select,
)
from atlasmith.config import Config
from atlasmith.config.schema import Entities
from atlasmith.io.files import nifti_files
from atlasmith.io.tables import participant_of

IMAGE_EXTENSIONS = (".nii", ".nii.gz", ".img", ".mgh", ".mgz", ".nrrd", ".mha", ".mnc", ".dcm")


def find_images(config: Config, scans: Sequence[str], problems: Problems) -> dict[str, dict[str, Path]]:
    """Find the images of each scan: one of each channel, and of one channel at least.

    Args:
        config: The run's config.
        scans: Ids without `sub-`.
        problems: Where scans without image, or with several of a channel, are added.

    Returns:
        Absolute paths by channel, in the config's order, by id.
    """
    cohort = config.cohort
    found = {scan: image_files(config, scan) for scan in scans}
    if scans and not any(paths for images in found.values() for paths in images.values()):
        names = " or ".join(f"sub-X[/ses-Y]/anat/*_{channel}.nii.gz" for channel in cohort.channels)
        there = [path for scan in scans for path in _files_below(cohort.bids, scan)]
        remedy = f"Check cohort.bids and cohort.suffix.{_there(there)}"
        problems.add(cohort.bids, f"no subject has an image {names}", remedy)
        return {}
    chosen = {}
    for scan, by_channel in found.items():
        images = {
            channel: _choose(paths, f"{channel} images", cohort.entities, "cohort.entities", problems)
            for channel, paths in by_channel.items()
            if paths
        }
        if not images:
            _add_missing_image(config, scan, problems)
        else:
            _check_sessions(config, scan, problems)
        complete = {channel: path for channel, path in images.items() if path is not None}
        if complete and len(complete) == len(images):
            chosen[scan] = complete
    return chosen


def find_labels(config: Config, roles: Mapping[str, str], problems: Problems) -> dict[str, Path]:
    """Find the label file of each scan that has one; that of an atlas must.

    Args:
        config: The run's config.
        roles: Roles by scan, without `sub-`.
        problems: Where atlases without labels, and scans with several files, are added.

    Returns:
        Absolute paths by id.
    """
    folder = config.cohort.labels
    if folder is None:
        problems.add("config: cohort.labels", "this is null", "Name the folder of the atlases' labels.")
        return {}
    if not (config.cohort.bids / folder).is_dir():
        remedy = "Set cohort.labels to the folder of the atlases' labels."
        problems.add(config.cohort.bids / folder, "no such folder", remedy)
        return {}
    labels = {}
    for scan, role in roles.items():
        paths = derivative_files(config, folder, scan, LABELS)
        chosen = _choose(
            paths, "label files", config.cohort.label_entities, "cohort.label_entities", problems
        )
        if chosen is not None:
            labels[scan] = chosen
        elif not paths:
            remedy = "Add them, or give the subject the role 'train'."
            missing = ("the atlas has no labels", remedy) if role == "atlas" else None
            _add_missing(config, folder, scan, LABELS, missing, problems)
    return labels


def find_masks(
    config: Config, key: str, scans: Iterable[str], required: bool, problems: Problems
) -> dict[str, Path]:
    """Find the mask of each scan, where the config names a folder of masks.

    Args:
        config: The run's config.
        key: Of the section `cohort`, that names the folder: `masks` or `exclude`.
        scans: Ids without `sub-`.
        required: Whether each scan must have one.
        problems: Where scans without a required mask, or with several, are added.

    Returns:
        Absolute paths by id.
    """
    folder = getattr(config.cohort, key)
    if folder is None:
        return {}
    if not (config.cohort.bids / folder).is_dir():
        remedy = f"Set cohort.{key} to a folder of masks, or to null."
        problems.add(config.cohort.bids / folder, "no such folder", remedy)
        return {}
    masks = {}
    for scan in scans:
        paths = derivative_files(config, folder, scan, MASK)
        chosen = _choose(paths, "masks", {}, None, problems)
        if chosen is not None:
            masks[scan] = chosen
        elif not paths:
            remedy = f"Give each scan a mask, or set cohort.{key} to null."
            missing = ("there is no such mask", remedy) if required else None
            _add_missing(config, folder, scan, MASK, missing, problems)
    return masks


def _choose(
    paths: Sequence[Path], kind: str, wanted: Entities, key: str | None, problems: Problems
) -> Path | None:
    """The one path with the wanted entities, absolute; otherwise None, and if there are paths, a problem."""
    chosen = select(paths, wanted)
    if len(chosen) == 1:
        return Path(os.path.abspath(chosen[0]))
    if chosen:
        names, apart = abbreviate([path.name for path in chosen]), _differences(chosen)
        remedy = f"Leave one of the {kind} there."
        if apart and key:
            values = [entities_of(chosen[0]).get(entity, "null") for entity in apart]
            choice = ", ".join(f"{entity}: {value}" for entity, value in zip(apart, values, strict=True))
            remedy = f"Choose one by {key}, such as {{{choice}}}."
        problems.add(chosen[0].parent, f"several {kind}: {names}", remedy)
    elif paths:
        text = ", ".join(
            f"{entity}: {' or '.join('null' if value is None else str(value) for value in listed(values))}"
            for entity, values in wanted.items()
        )
        names = abbreviate([path.name for path in paths])
        remedy = f"Change {key}: a list, such as {{acq: [mprage, fast]}}, lets several values through."
        problems.add(paths[0].parent, f"none of the {kind} has {{{text}}}: {names}", remedy)
    return None


def _differences(paths: Iterable[Path]) -> list[str]:
    """The entities that differ between the names of files."""
    found = [entities_of(path) for path in paths]
    keys = dict.fromkeys(key for entities in found for key in entities)
    return [key for key in keys if len({entities.get(key) for entities in found}) > 1]


def _check_sessions(config: Config, scan: str, problems: Problems) -> None:
    """Add a problem where a subject has images in a session and in none; once, at its first session."""
    participant = participant_of(scan)
    scans = scans_of(config, participant)
    outside = [
        path
        for channel in config.cohort.channels
        for path in nifti_files(config.cohort.bids, participant, channel)
    ]
    if scan != participant and scan == scans[0] and outside:
        found = f"{outside[0].name} belongs to no session, and there is sub-{scan}"
        remedy = "Move it into the folder of its session, or out of the cohort."
        problems.add(outside[0].parent, found, remedy)


def _add_missing_image(config: Config, scan: str, problems: Problems) -> None:
    bids, suffix = config.cohort.bids, config.cohort.channels[0]
    remedy, there = "Add it, or remove the subject from participants.tsv.", _files_below(bids, scan)
    problems.add(_expected(bids, scan, suffix), "no such image", remedy + _there(there))


def _add_missing(
    config: Config,
    folder: str,
    scan: str,
    suffix: str,
    missing: tuple[str, str] | None,
    problems: Problems,
) -> None:
    """Add a problem for a file that can't be assigned to a scan, or else for what is missing, if given."""
    root, participant = config.cohort.bids / folder, participant_of(scan)
    there = _files_below(root, scan)
    ends = (f"_{suffix}.nii", f"_{suffix}.nii.gz")
    unassigned = [path for path in there if path.name.endswith(ends)]
    # With a session of its own, a file belongs to a scan that isn't of this cohort.
    unassigned = [p for p in unassigned if scan == participant or "ses" not in entities_of(p)]
    if any(problem.where in unassigned for problem in problems):
        return  # known from another scan of the participant
    if unassigned:
        sessions = scans_of(config, participant)
        found = f"of which scan is this: {', '.join(f'sub-{name}' for name in sessions)}?"
        where = _expected(root, scan, suffix)
        problems.add(unassigned[0], found, f"Name it as its image is named, such as {where}.")
    elif missing is not None:
        found, remedy = missing
        problems.add(_expected(root, scan, suffix), found, remedy + _there(there))


def _expected(folder: Path, scan: str, suffix: str) -> Path:
    return folder.joinpath(*f"sub-{scan}".split("_"), "anat", f"sub-{scan}_{suffix}.nii.gz")


def _files_below(folder: Path, scan: str) -> list[Path]:
    """The images of a scan's participant, wherever they lie and of whatever format."""
    found = (folder / f"sub-{participant_of(scan)}").rglob("*")
    return sorted(path for path in found if path.name.lower().endswith(IMAGE_EXTENSIONS))


def _there(paths: Sequence[Path]) -> str:
    """Names of files for the end of a remedy."""
    if not paths:
        return ""
    found = f" There: {abbreviate(['/'.join(path.parts[-3:]) for path in paths])}."
    readable = all(path.name.endswith((".nii", ".nii.gz")) for path in paths)
    return found if readable else f"{found} Images are read from .nii and .nii.gz: convert or rename others."
