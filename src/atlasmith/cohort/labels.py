"""Label files: finding them, and checks of their voxels and names."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from atlasmith.cohort.images import nifti_files
from atlasmith.cohort.problems import Problems, abbreviate, refuse
from atlasmith.config import Config
from atlasmith.core.grid import Grid
from atlasmith.io.tables import read_tsv


def find_labels(config: Config, roles: Mapping[str, str], problems: Problems) -> dict[str, Path]:
    """Find the label file of each subject that has one; an atlas must.

    Args:
        config: The run's config.
        roles: Roles by id without `sub-`.
        problems: Where atlases without labels, and subjects with several files, are added.

    Returns:
        Absolute paths by id.
    """
    if config.cohort.labels is None:
        problems.add("config: cohort.labels", "this is null", "Name the folder of the atlases' labels.")
        return {}
    folder = config.cohort.bids / config.cohort.labels
    if not folder.is_dir():
        problems.add(folder, "no such folder", "Set cohort.labels to the folder of the atlases' labels.")
        return {}
    labels = {}
    for name, role in roles.items():
        paths = nifti_files(folder, name, "dseg")
        if len(paths) > 1:
            names = abbreviate([path.name for path in paths])
            problems.add(paths[0].parent, f"several label files: {names}", "Leave one *_dseg file there.")
        elif paths:
            labels[name] = paths[0]
        elif role == "atlas":
            path = folder / f"sub-{name}" / "anat" / f"sub-{name}_dseg.nii.gz"
            remedy = "Add them, or give the subject the role 'train'."
            problems.add(path, "the atlas has no labels", remedy)
    return labels


def check_label_grid(path: Path, label_grid: Grid, image: Path, grid: Grid) -> None:
    """Raise `InputError` if labels and image lie on different grids."""
    if not label_grid.same_as(grid):
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
    file: Any = nib.load(path)
    data = np.asanyarray(file.dataobj)
    broken = data[data != np.rint(data)] if data.dtype.kind == "f" else data[:0]
    if broken.size:
        found = f"{broken.size} voxels are no integers, such as {broken.flat[0]:g}"
        refuse(path, found, "Resample labels with nearest neighbor, and save integers.")
    if data.min() < 0 or data.max() > np.iinfo(np.int32).max:
        found = f"labels go from {data.min()} to {data.max()}"
        refuse(path, found, "Labels lie between 0 and 2147483647.")
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
    if table.is_file():
        try:
            names = {int(row["index"]): row["name"] for row in read_tsv(table)}
        except (KeyError, TypeError, ValueError, csv.Error) as error:
            found = f"this is no table of labels ({type(error).__name__}: {error})"
            problems.add(table, found, "It needs columns `index`, an integer, and `name`.")
    return {label: names.get(label) or f"label{label}" for label in sorted(labels)}
