"""Check a whole cohort before any computation, and write what later stages read of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from atlasmith.cohort.covariates import is_in_template
from atlasmith.cohort.finding import find_images, find_labels, find_masks
from atlasmith.cohort.grid import common_grid
from atlasmith.cohort.images import check_header, check_mask, check_overlap, check_voxels
from atlasmith.cohort.labels import check_label_grid, check_labels, read_label_colors, read_label_names
from atlasmith.cohort.output import check_output, mark_output
from atlasmith.cohort.participants import read_rows
from atlasmith.cohort.problems import Problems
from atlasmith.cohort.sessions import Row
from atlasmith.config import Config
from atlasmith.config.choices import check_choices
from atlasmith.core.errors import InputError
from atlasmith.core.grid import Array, Grid
from atlasmith.core.progress import track
from atlasmith.io.files import write_json, write_text
from atlasmith.io.tables import Subject, parse_covariate, write_cohort, write_tsv
from atlasmith.workflow.provenance import checksums


@dataclass(frozen=True)
class CheckedCohort:
    """A cohort without problems.

    Attributes:
        subjects: In the order of their ids.
        label_names: Names of the atlases' labels, without background.
        grid: The template's grid.
    """

    subjects: list[Subject]
    label_names: dict[int, str]
    grid: Grid


@dataclass
class _FileFindings:
    """Grids by scan, extents (3,) in mm of the template subjects, and the atlases' labels."""

    grids: dict[str, Grid] = field(default_factory=dict)
    extents: list[Array] = field(default_factory=list)
    labels: set[int] = field(default_factory=set)


@dataclass(frozen=True)
class _Inputs:
    """The input files of a scan; images by channel."""

    id: str
    images: dict[str, Path]
    labels: Path | None
    mask: Path | None
    exclude: Path | None


def check_cohort(config: Config) -> CheckedCohort:
    """Check tables, images, masks and labels, the names in the config, and the output folder.

    Every image and mask is read, and the labels of atlases. Labels of other subjects are attached where
    there are any, but of their files only the header is read.

    Args:
        config: The run's config.

    Returns:
        Subjects, label names and the template's grid.

    Raises:
        InputError: With every problem found.
    """
    problems = Problems()
    problems.collect(check_choices, config)
    problems.collect(check_output, config)
    rows = dict(sorted(read_rows(config, problems).items()))
    roles = {name: row[config.cohort.role_column] for name, row in rows.items()}
    images = find_images(config, list(rows), problems)
    labels = find_labels(config, roles, problems) if rows else {}
    masks = find_masks(config, "masks", images, True, problems)
    exclude = find_masks(config, "exclude", images, False, problems)
    inputs = [
        _Inputs(name, images.get(name, {}), labels.get(name), masks.get(name), exclude.get(name))
        for name in rows
    ]
    findings = _check_files(config, rows, inputs, problems)
    label_names = read_label_names(config, findings.labels, problems)
    grid = common_grid(config, findings.grids, findings.extents, problems)
    if problems:
        raise InputError(problems)
    assert grid is not None
    subjects = [
        Subject(
            id=scan.id,
            role=roles[scan.id],
            image=next(iter(scan.images.values())),
            labels=scan.labels,
            covariates={key: parse_covariate(rows[scan.id][key]) for key in config.cohort.covariates},
            in_template=is_in_template(config, rows[scan.id]),
            channels=scan.images if len(config.cohort.channels) > 1 else {},
            mask=scan.mask,
            exclude=scan.exclude,
        )
        for scan in inputs
    ]
    return CheckedCohort(subjects, label_names, grid)


def _check_files(
    config: Config, rows: Mapping[str, Row], inputs: Sequence[_Inputs], problems: Problems
) -> _FileFindings:
    findings = _FileFindings()
    for scan in track(inputs, "cohort"):
        row = rows[scan.id]
        grid = _check_images(config, scan, is_in_template(config, row), findings, problems)
        if scan.labels is None:
            continue
        label_grid = problems.collect_from_file(check_header, scan.labels)
        if label_grid is not None and grid is not None:
            image = next(iter(scan.images.values()))
            problems.collect(check_label_grid, scan.labels, label_grid, image, grid)
        if label_grid is not None and row[config.cohort.role_column] == "atlas":
            findings.labels |= problems.collect_from_file(check_labels, scan.labels) or set()
    return findings


def _check_images(
    config: Config, scan: _Inputs, in_template: bool, findings: _FileFindings, problems: Problems
) -> Grid | None:
    """Check channels and masks of a scan; returns the grid of its first channel."""
    grids = {path: problems.collect_from_file(check_header, path) for path in scan.images.values()}
    if not grids or (grid := next(iter(grids.values()))) is None:
        return None
    findings.grids[scan.id] = grid
    margin, channels = config.template.margin, {path: channel for channel, path in scan.images.items()}
    windows = {path: config.preprocess.window_of(channel) for path, channel in channels.items()}
    first, *others = grids
    masks = {
        path: problems.collect_from_file(check_mask, path, first, grid, path == scan.mask)
        for path in (scan.mask, scan.exclude)
        if path is not None
    }
    if all(mask is not None for mask in masks.values()):
        mask = None if scan.mask is None else masks[scan.mask]
        exclude = None if scan.exclude is None else (scan.exclude, masks[scan.exclude])
        extent = problems.collect_from_file(check_voxels, first, margin, windows[first], mask, exclude)
        if extent is not None and in_template:
            findings.extents.append(extent)
    for path in others:
        other = grids[path]
        if other is not None:
            problems.collect(check_overlap, path, other, first, grid)
            problems.collect_from_file(check_voxels, path, margin, windows[path])
    return grid


def write_checked_cohort(config: Config) -> None:
    """Check the cohort, and write its table, the labels, the grid, the config and the inputs' checksums.

    Nothing is written where there is a problem.

    Args:
        config: The run's config.

    Raises:
        InputError: With every problem found.
    """
    checked = check_cohort(config)
    layout = config.layout
    mark_output(config)  # first: a folder with other files and without the mark is refused
    write_text(layout.config, yaml.safe_dump(config.resolved(), sort_keys=False))
    colors = read_label_colors(config, checked.label_names)
    rows = [{"index": i, "name": name, "color": colors[i]} for i, name in checked.label_names.items()]
    write_tsv(layout.labels, rows, ["index", "name", "color"])
    write_json(layout.grid, checked.grid.to_dict())
    write_text(layout.inputs, checksums(file for subject in checked.subjects for file in subject.files))
    write_cohort(layout.cohort, checked.subjects, config.cohort.covariates)
