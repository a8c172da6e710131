"""Find out what lies in a BIDS folder: images, labels, roles, covariates, voxel sizes."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from atlasmith.cohort.categories import category_problem
from atlasmith.cohort.output import read_generators
from atlasmith.cohort.participants import ROLES
from atlasmith.core.errors import AtlasmithError, InputError, Problem
from atlasmith.core.intensity import looks_like_hounsfield
from atlasmith.io.images import read_image
from atlasmith.io.tables import COLUMNS, OPTIONAL_COLUMNS, parse_covariate, read_tsv

NIFTI_NAME = re.compile(r"(sub-[A-Za-z0-9]+(?:_ses-[A-Za-z0-9]+)?)(?:_[^_]+)*_([A-Za-z0-9]+)\.nii(\.gz)?")
DERIVED_SUFFIXES = ("dseg", "mask", "probseg")  # of files that are no images to register
LABELS = "dseg"
SAMPLE = 40  # headers that are read
MAX_CATEGORIES = 10
DEFAULT_LABELS = "derivatives/manual"


@dataclass(frozen=True)
class Discovery:
    """What lies in a BIDS folder.

    Attributes:
        bids: The folder.
        suffixes: Number of scans with an image of each suffix, the one to take first.
        labels: Folder of the labels, relative to `bids`; None where there are none.
        scans: Number of scans with an image of the first suffix.
        labeled: How many of them have labels.
        roles: Number of participants by role; None without a column of roles.
        covariates: Columns of participants.tsv that can be used, with `continuous` or the categories.
        spacing: Voxel size of a template for these images, mm; None where no image can be read.
        extent: Size (3,) of the largest field of view, mm.
        flat: Whether the images are 2-D.
        hounsfield: Whether intensities look like those of CT.
    """

    bids: Path
    suffixes: dict[str, int]
    labels: str | None
    scans: int
    labeled: int
    roles: dict[str, int] | None
    covariates: dict[str, str]
    spacing: float | None
    extent: tuple[float, ...]
    flat: bool
    hounsfield: bool

    @property
    def atlases(self) -> int:
        """The number of atlases, from the column of roles or else from who has labels."""
        return self.labeled if self.roles is None else self.roles.get("atlas", 0)

    def config(self) -> dict[str, Any]:
        """Return the sections and keys of a config for this folder that differ from the defaults."""
        cohort: dict[str, Any] = {"bids": str(self.bids), "suffix": next(iter(self.suffixes))}
        cohort |= {"labels": self.labels or DEFAULT_LABELS, "role": None if self.roles is None else "role"}
        values: dict[str, Any] = {"cohort": cohort}
        if self.hounsfield:
            values["preprocess"] = {"window": [-160, 240]}
        if self.spacing is not None:
            values["template"] = {"spacing": self.spacing}
        if self.atlases < 2:
            values["fusion"] = {"methods": ["majority"]}
        return values


def discover(bids: Path) -> Discovery:
    """Look at a BIDS folder: names of files, some headers, and the voxels of one image.

    Args:
        bids: The folder.

    Returns:
        What lies there.

    Raises:
        InputError: Where there are no images.
    """
    if not bids.is_dir():
        raise InputError([Problem(bids, "no such folder", "Name a BIDS folder.")])
    images: dict[str, dict[str, Path]] = {}
    for scan, suffix, path in _nifti_files(bids):
        if suffix not in DERIVED_SUFFIXES:
            images.setdefault(suffix, {}).setdefault(scan, path)
    if not images:
        remedy = "Lay images out as sub-X/anat/sub-X_T1w.nii.gz, or sub-X/ses-Y/anat/sub-X_ses-Y_T1w.nii.gz."
        raise InputError([Problem(bids, "there is no image", remedy)])
    suffixes = sorted(images, key=lambda name: (-len(images[name]), name != "T1w", name))
    first = images[suffixes[0]]
    labels, labeled = _find_labels(bids, set(first))
    roles, covariates = _read_table(bids / "participants.tsv")
    paths = list(first.values())
    spacing, extent, flat = survey(paths)
    return Discovery(
        bids,
        {name: len(images[name]) for name in suffixes},
        labels,
        len(first),
        labeled,
        roles,
        covariates,
        spacing,
        extent,
        flat,
        _is_hounsfield(paths[0]),
    )


def image_paths(bids: Path, suffix: str) -> list[Path]:
    """List the images of a BIDS folder with a suffix, such as T1w."""
    return [path for _, found, path in _nifti_files(bids) if found == suffix]


def survey(paths: Sequence[Path]) -> tuple[float | None, tuple[float, float, float], bool]:
    """Read the headers of some images.

    Args:
        paths: The images; some of them are read, evenly chosen.

    Returns:
        Voxel size for a template of them in mm (None where none can be read): the median of the images' mean
        voxel sizes; the size (3,) of the largest field of view in mm; and whether the images are 2-D.
    """
    sizes, extents, flat = [], [[0.0, 0.0, 0.0]], False
    for path in paths[:: math.ceil(len(paths) / SAMPLE)]:
        try:
            header: Any = nib.load(path).header
            shape = (*header.get_data_shape(), 1)[:3]
            zooms = (*header.get_zooms(), 1.0)[:3]
        except (
            Exception
        ):  # readers raise anything at all on damaged bytes, and the cohort stage names the file
            continue
        spans = [float(zoom) for zoom, size in zip(zooms, shape, strict=True) if size > 1]
        if spans and min(spans) > 0 and math.isfinite(sum(spans)):
            sizes.append(math.prod(spans) ** (1 / len(spans)))
            extents.append([float(n * z) if n > 1 else 0.0 for n, z in zip(shape, zooms, strict=True)])
            flat = len(spans) == 2
    spacing = float(f"{np.median(sizes):.2g}") if sizes else None
    x, y, z = np.max(extents, axis=0).tolist()
    return spacing, (x, y, z), flat


def _nifti_files(folder: Path) -> Iterable[tuple[str, str, Path]]:
    """Yield the scan, the suffix and the path of each NIfTI file of a BIDS folder or a derivative."""
    for pattern in ("sub-*/anat/*.nii*", "sub-*/ses-*/anat/*.nii*"):
        for path in sorted(folder.glob(pattern)):
            if match := NIFTI_NAME.fullmatch(path.name):
                yield match[1], match[2], path


def _find_labels(bids: Path, scans: set[str]) -> tuple[str | None, int]:
    """The folder with labels of the most scans, and their number. Segmentations of ours don't count."""
    found: dict[str, int] = {}
    for folder in (bids, *sorted((bids / "derivatives").glob("*/"))):
        if "atlasmith" not in read_generators(folder / "dataset_description.json"):
            labeled = {scan for scan, suffix, _ in _nifti_files(folder) if suffix == LABELS}
            found[folder.relative_to(bids).as_posix()] = len(labeled & scans)
    best = max(found, key=lambda name: (found[name], name == DEFAULT_LABELS))
    return (best, found[best]) if found[best] else (None, 0)


def _read_table(path: Path) -> tuple[dict[str, int] | None, dict[str, str]]:
    """Roles and usable covariates of participants.tsv; none where it can't be read."""
    try:
        rows = read_tsv(path) if path.is_file() else []
    except AtlasmithError:
        rows = []  # the cohort stage says what is wrong
    if not rows:
        return None, {}
    roles = Counter(row.get("role", "") for row in rows)
    columns = [name for name in rows[0] if name not in (*COLUMNS, *OPTIONAL_COLUMNS, "session_id")]
    kinds = {name: _kind([row[name] for row in rows]) for name in columns}
    usable = {name: kind for name, kind in kinds.items() if kind is not None}
    return (dict(roles) if set(roles) <= set(ROLES) else None), usable


def _kind(values: Sequence[str]) -> str | None:
    """Describe a column: `continuous`, or its categories; None where it is no covariate."""
    given = [value for text in values if (value := parse_covariate(text)) is not None]
    texts = Counter(value for value in given if isinstance(value, str))
    if 2 * len(given) <= len(values) or len(set(given)) < 2 or (texts and texts.total() < len(given)):
        return None
    if not texts:
        return "continuous" if all(math.isfinite(float(value)) for value in given) else None
    names = {str(index): str(value) for index, value in enumerate(given)}
    few = len(texts) <= MAX_CATEGORIES and min(texts.values()) > 1
    return " or ".join(sorted({*names.values()})) if few and category_problem(names) is None else None


def _is_hounsfield(path: Path) -> bool:
    try:
        return looks_like_hounsfield(read_image(path).data)
    except Exception:  # as in `survey`
        return False
