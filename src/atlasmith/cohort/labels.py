"""Checks of label files: voxels, names and colors."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import cycle
from pathlib import Path

import numpy as np

from atlasmith.cohort.images import FORM_TOLERANCE
from atlasmith.cohort.problems import Problems, refuse
from atlasmith.config import Config
from atlasmith.core.grid import Grid
from atlasmith.io.images import read_labels
from atlasmith.io.tables import MISSING, read_tsv

# Twenty colors that are easy to tell apart (Trubetskoy 2017).
PALETTE = (
    *("#e6194b", "#3cb44b", "#ffe119", "#4363d8", "#f58231", "#911eb4", "#46f0f0", "#f032e6", "#bcf60c"),
    *("#fabebe", "#008080", "#e6beff", "#9a6324", "#fffac8", "#800000", "#aaffc3", "#808000", "#ffd8b1"),
    *("#000075", "#808080"),
)


def check_label_grid(path: Path, label_grid: Grid, image: Path, grid: Grid) -> None:
    """Raise `InputError` if labels and image lie on different grids.

    They may differ by as much as an image's own qform and sform: labels drawn in a tool that reads the one
    have the axes of that.
    """
    if not label_grid.same_as(grid, FORM_TOLERANCE):
        refuse(
            path,
            f"the labels lie on another grid ({label_grid.shape} voxels, "
            f"affine {label_grid.affine.round(3).tolist()}) than {image.name} "
            f"({grid.shape} voxels, affine {grid.affine.round(3).tolist()})",
            "Resample them onto the image with nearest neighbor.",
        )


def check_labels(path: Path) -> set[int]:
    """Check that the voxels of a label file are non-negative integers, and not all background.

    Args:
        path: A NIfTI file with a valid header.

    Returns:
        Its labels, without background.

    Raises:
        InputError: With the first problem found.
    """
    data = read_labels(path).data
    if data.min() < 0:
        found = f"labels go from {data.min()} to {data.max()}"
        refuse(path, found, f"Labels lie between 0 and {np.iinfo(np.int32).max}.")
    labels = {int(value) for value in np.unique(data)} - {0}
    if not labels:
        refuse(path, "every voxel is background", "Add labels, or give the subject the role 'train'.")
    return labels


def read_label_names(config: Config, labels: set[int], problems: Problems) -> dict[int, str]:
    """Read the names of labels from the dseg.tsv beside them.

    Args:
        config: The run's config.
        labels: The atlases' labels, without background.
        problems: Where an unreadable table is added.

    Returns:
        Names by label, in rising order; `label<k>` where the table has none.
    """
    names: dict[int, str] = {}
    table = config.cohort.bids / (config.cohort.labels or "") / "dseg.tsv"
    for row in (problems.collect(read_tsv, table) or []) if table.is_file() else []:
        try:
            index, name = int(row["index"]), row["name"]
        except (KeyError, ValueError) as error:
            found = f"this is no table of labels ({type(error).__name__}: {error})"
            problems.add(table, found, "It needs columns `index`, an integer, and `name`.")
            break
        if index in names:
            found = f"label {index} has two names, '{names[index]}' and '{name}'"
            problems.add(table, found, "Keep one row per label.")
        names[index] = "" if name == MISSING else name
    return {label: names.get(label) or f"label{label}" for label in sorted(labels)}


def read_label_colors(config: Config, labels: Iterable[int]) -> dict[int, str]:
    """Read the colors of labels from the dseg.tsv beside them.

    Args:
        config: The run's config.
        labels: The labels, without background.

    Returns:
        Colors as #RRGGBB by label; where the table has no valid one, the next of `PALETTE`.
    """
    table = config.cohort.bids / (config.cohort.labels or "") / "dseg.tsv"
    given = {int(row["index"]): row.get("color", "") for row in read_tsv(table)} if table.is_file() else {}
    return {
        label: given[label].lower() if re.fullmatch(r"#[0-9A-Fa-f]{6}", given.get(label, "")) else color
        for label, color in zip(labels, cycle(PALETTE), strict=False)
    }
