"""Check a whole cohort before any computation, and write what later stages read of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from tqdm import tqdm

from atlasmith.cohort.grid import common_grid
from atlasmith.cohort.images import check_header, check_voxels, find_images, find_masks
from atlasmith.cohort.labels import check_label_grid, check_labels, find_labels, read_label_names
from atlasmith.cohort.output import check_output, mark_output
from atlasmith.cohort.participants import Row, is_in_template, read_rows
from atlasmith.cohort.problems import Problems
from atlasmith.config import Config
from atlasmith.config.choices import check_choices
from atlasmith.core.errors import InputError
from atlasmith.core.grid import Array, Grid
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
    """Grids by subject id, extents (3,) in mm of the template subjects, and the atlases' labels."""

    grids: dict[str, Grid] = field(default_factory=dict)
    extents: list[Array] = field(default_factory=list)
    labels: set[int] = field(default_factory=set)


def check_cohort(config: Config) -> CheckedCohort:
    """Check table, images and labels, the names in the config, and the output folder.

    Every image is read, and the labels of atlases. Labels of other subjects are attached where there are
    any, but of their files only the header is read.

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
    roles = {name: row[config.cohort.role] for name, row in rows.items()}
    images = find_images(config, list(rows), problems)
    labels = find_labels(config, roles, problems) if rows else {}
    masks = find_masks(config, list(images), problems)
    findings = _check_files(config, rows, images, labels, masks, problems)
    label_names = read_label_names(config, findings.labels, problems)
    grid = common_grid(config, findings.grids, findings.extents, problems)
    if problems:
        raise InputError(problems)
    assert grid is not None
    subjects = [
        Subject(
            id=name,
            role=roles[name],
            image=images[name],
            labels=labels.get(name),
            covariates={key: parse_covariate(row[key]) for key in config.cohort.covariates},
            in_template=is_in_template(config, row),
        )
        for name, row in rows.items()
    ]
    return CheckedCohort(subjects, label_names, grid)


def _check_files(
    config: Config,
    rows: Mapping[str, Row],
    images: Mapping[str, Path],
    labels: Mapping[str, Path],
    masks: Mapping[str, Path],
    problems: Problems,
) -> _FileFindings:
    findings = _FileFindings()
    for name, row in tqdm(rows.items(), desc="cohort", unit="image", disable=None):
        grid = None
        if name in images:
            grid = problems.collect_from_file(check_header, images[name])
        if grid is not None:
            findings.grids[name] = grid
            extent = problems.collect_from_file(
                check_voxels,
                images[name],
                config.template.margin,
                config.preprocess.window,
                masks.get(name),
            )
            if extent is not None and is_in_template(config, row):
                findings.extents.append(extent)
        if name not in labels:
            continue
        label_grid = problems.collect_from_file(check_header, labels[name])
        if label_grid is not None and grid is not None:
            problems.collect(check_label_grid, labels[name], label_grid, images[name], grid)
        if label_grid is not None and row[config.cohort.role] == "atlas":
            findings.labels |= problems.collect_from_file(check_labels, labels[name]) or set()
    return findings


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
    rows = [{"index": index, "name": name} for index, name in checked.label_names.items()]
    write_tsv(layout.labels, rows, ["index", "name"])
    write_json(layout.grid, checked.grid.to_dict())
    files = [file for subject in checked.subjects for file in (subject.image, subject.labels) if file]
    write_text(layout.inputs, checksums(files))
    write_cohort(layout.cohort, checked.subjects, config.cohort.covariates)
