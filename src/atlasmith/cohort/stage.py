"""Stage `cohort`: read a BIDS cohort, find every problem before any compute, decide the common grid."""

from __future__ import annotations

import csv
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeVar

import nibabel as nib
import numpy as np
import yaml
from nibabel.openers import ImageOpener
from tqdm import tqdm

from atlasmith import __version__
from atlasmith.config import Config, load_config
from atlasmith.config.choices import check_choices
from atlasmith.config.schema import TemplateSection
from atlasmith.core.errors import AtlasmithError, InputError, Problem, did_you_mean
from atlasmith.core.grid import Array, Grid
from atlasmith.io.files import read_json, write_json, write_text
from atlasmith.io.images import Image, read_grid, read_image
from atlasmith.io.tables import (
    COLUMNS,
    Subject,
    format_value,
    parse_covariate,
    read_cohort,
    read_tsv,
    write_cohort,
    write_tsv,
)
from atlasmith.workflow.provenance import checksums, made_with

T = TypeVar("T")

ROLES = ("atlas", "target", "train")
BUILDS = {"yes": True, "no": False}
SAME_PLACE = 0.1  # voxels that a qform and an sform may differ by

# Float32 volumes of the template's grid that training holds at its peak. Per image of a batch: both
# directions of the warp, each with its field at full resolution, the sums in the windows of LNCC and what
# autograd keeps of them, and the feature maps of the network. Once: template, slopes, gradients and moments.
VOLUMES_PER_IMAGE = 60
VOLUMES_ONCE = 40

# What of the output isn't in the BIDS standard (yet).
BIDSIGNORE = """\
*_xfm.*
*_jacobian.*
*_confidence.*
*_uncertainty.*
*_volumes.tsv
*_metrics.tsv
tpl-*/template_description.json
cohort.tsv
config.yaml
grid.json
inputs.sha256
labels.tsv
subpopulations.tsv
logs/
model/
report.html
scores/
"""


@dataclass(frozen=True)
class CheckedCohort:
    """subjects: in the order of their ids. label_names: names of the atlases' labels, without background.
    grid: the template's."""

    subjects: list[Subject]
    label_names: dict[int, str]
    grid: Grid


def _refuse(where: str | Path, found: str, remedy: str) -> NoReturn:
    raise InputError([Problem(where, found, remedy)])


# The table


def _some(names: Sequence[str]) -> str:
    """A list that stays readable: three names and how many more."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _read_table(config: Config, problems: list[Problem]) -> dict[str, dict[str, str]]:
    """Rows of participants.tsv by id (without `sub-`), in its order; faults are added to `problems`."""
    table = config.cohort.bids / "participants.tsv"
    role, builders = config.cohort.role, config.cohort.template_subjects
    if not table.is_file():
        problems.append(
            Problem(table, "no such file", "cohort.bids must name a BIDS folder with a participants.tsv.")
        )
        return {}
    try:
        rows = [{key: value or "" for key, value in row.items()} for row in read_tsv(table)]
    except (UnicodeDecodeError, csv.Error) as error:
        problems.append(
            Problem(table, f"this is no table ({error})", "Save it as tab-separated text in UTF-8.")
        )
        return {}
    if not rows:
        problems.append(
            Problem(table, "the table has no rows", "Give each subject a row, columns divided by tabs.")
        )
        return {}
    columns = list(rows[0])
    needed = ["participant_id", role, *([builders] if builders else [])]
    for name in (*needed, *config.cohort.covariates):
        if name not in columns:
            problems.append(Problem(table, f"there is no column '{name}'", did_you_mean(name, columns)))
    if not set(needed) <= set(columns):
        return {}

    by_id: dict[str, dict[str, str]] = {}
    for number, row in enumerate(rows, start=1):
        name = row["participant_id"]
        if not re.fullmatch("sub-[A-Za-z0-9]+", name):
            problems.append(
                Problem(
                    f"{table}: row {number}",
                    f"the participant_id is {name!r}",
                    "An id is `sub-` and then letters and digits alone.",
                )
            )
        elif name.removeprefix("sub-") in by_id:
            problems.append(
                Problem(f"{table}: row {number}", f"{name} stands here again", "Keep one row a subject.")
            )
        else:
            by_id[name.removeprefix("sub-")] = row
    subpopulations = config.template.subpopulations
    if subpopulations > 1 and len(rows) < 2 * subpopulations:
        problems.append(
            Problem(
                "config: template.subpopulations",
                f"{subpopulations} are to be told apart among {len(rows)} subjects",
                "Lower it: each needs two or more.",
            )
        )
    _check_builders(config, table, rows, problems)
    _hold_out(config, table, by_id, problems)
    _check_roles(config, table, rows, problems)
    for name in config.cohort.covariates:
        if name in columns:
            _check_covariate(config, name, table, rows, problems)
    return by_id


def _hold_out(config: Config, table: Path, rows: dict[str, dict[str, str]], problems: list[Problem]) -> None:
    """Atlases that the config holds out become targets, in place."""
    atlases = [f"sub-{name}" for name, row in rows.items() if row[config.cohort.role] == "atlas"]
    for name in config.cohort.hold_out:
        if name in atlases:
            rows[name.removeprefix("sub-")][config.cohort.role] = "target"
        else:
            problems.append(
                Problem(
                    "config: cohort.hold_out",
                    f"'{name}' is no atlas of {table}",
                    did_you_mean(name, atlases),
                )
            )


def _check_roles(config: Config, table: Path, rows: list[dict[str, str]], problems: list[Problem]) -> None:
    counts = Counter(row[config.cohort.role] for row in rows)
    unknown = [value for value in counts if value not in ROLES]
    for value in unknown:
        names = [row["participant_id"] for row in rows if row[config.cohort.role] == value]
        problems.append(
            Problem(table, f"the role of {_some(names)} is '{value}'", did_you_mean(value, ROLES))
        )
    if not unknown:
        # Networks learn from atlases that are warped to one another.
        networks = config.fusion.networks
        least = 2 if networks else 1
        if counts["atlas"] < least:
            why = f", since fusion.methods has {' and '.join(networks)}" if networks else ""
            problems.append(
                Problem(
                    table,
                    f"{counts['atlas'] or 'no'} subject has the role 'atlas'",
                    f"Give that role to {least} or more subjects with trusted labels{why}.",
                )
            )
        if not counts["target"]:
            problems.append(
                Problem(
                    table, "no subject has the role 'target'", "Give that role to the subjects to segment."
                )
            )
    if len(rows) < 2:
        problems.append(Problem(table, "there is only one subject", "A template needs 2 or more."))


def _check_builders(config: Config, table: Path, rows: list[dict[str, str]], problems: list[Problem]) -> None:
    name = config.cohort.template_subjects
    if name is None:
        return
    where = f"{table}: column '{name}'"
    wrong = [f"'{row[name]}' ({row['participant_id']})" for row in rows if row[name] not in BUILDS]
    builders = [row for row in rows if row[name] == "yes"]
    if wrong:
        problems.append(Problem(where, f"found {_some(wrong)}", "Write yes or no."))
    elif len(builders) < 2:
        problems.append(Problem(where, f"{len(builders)} rows say yes", "A template needs 2 or more."))
    elif config.template.subpopulations > 1 and len(builders) < len(rows):
        problems.append(
            Problem(
                "config: template.subpopulations",
                f"people of whom {where} says no belong to none",
                "Give them to `atlasmith segment` instead, one by one, or set cohort.template_subjects to null.",
            )
        )


def _check_covariate(
    config: Config, name: str, table: Path, rows: list[dict[str, str]], problems: list[Problem]
) -> None:
    where = f"{table}: column '{name}'"
    remedy = "Write n/a where a value is missing, or remove the name from cohort.covariates."
    if name in COLUMNS:
        problems.append(Problem(where, "this name has another use here", "Rename the column."))
        return
    values = {row["participant_id"]: parse_covariate(row[name]) for row in rows}
    given = {key: value for key, value in values.items() if value is not None}
    if not given:
        problems.append(Problem(where, "every value is missing", remedy))
        return
    texts = {key: value for key, value in given.items() if isinstance(value, str)}
    known = {given[key] for row in rows if (key := row["participant_id"]) in given and _builds(config, row)}
    strangers = [f"'{value}' ({key})" for key, value in texts.items() if value not in known]
    infinite = [key for key, value in given.items() if isinstance(value, float) and not math.isfinite(value)]
    if texts and len(texts) < len(given):
        found = _some([f"'{value}' ({key})" for key, value in texts.items()])
        problems.append(Problem(where, f"{found} is no number, while other rows hold numbers", remedy))
    elif infinite:
        problems.append(Problem(where, f"the value of {_some(infinite)} is no finite number", remedy))
    elif name in config.template.condition_on and len(known) <= 1:
        problems.append(
            Problem(
                where,
                f"every value is {next(iter(known), 'missing')}",
                "A template can't depend on it: remove it from template.condition_on.",
            )
        )
    elif strangers and name in config.template.condition_on:
        problems.append(
            Problem(
                where,
                f"nobody who makes the template has {_some(strangers)}",
                f"Write n/a, or let others of that kind make it too: column '{config.cohort.template_subjects}'.",
            )
        )
    else:
        for value in config.template.evaluate_at.get(name, []):
            if texts and value not in known:
                problems.append(
                    Problem(
                        f"config: template.evaluate_at.{name}", f"no subject has {value!r}", f"See {where}."
                    )
                )
            if not texts and not isinstance(value, int | float):
                problems.append(
                    Problem(
                        f"config: template.evaluate_at.{name}", f"{value!r} is no number", f"See {where}."
                    )
                )


def _builds(config: Config, row: dict[str, str]) -> bool:
    name = config.cohort.template_subjects
    return name is None or BUILDS.get(row[name], True)


class Participant(NamedTuple):
    """A subject as tables have it: id without `sub-`, and the texts of all that is known."""

    id: str
    role: str
    in_template: bool
    covariates: tuple[str, ...]


def read_participants(config: Config) -> list[Participant]:
    """The subjects in the order of participants.tsv, from there alone.

    Raises `InputError` with every fault of the table.
    """
    problems: list[Problem] = []
    rows = _read_table(config, problems)
    if problems:
        raise InputError(problems)
    return [
        Participant(
            name,
            row[config.cohort.role],
            _builds(config, row),
            tuple(format_value(parse_covariate(row[key])) for key in config.cohort.covariates),
        )
        for name, row in rows.items()
    ]


def checked_participants(config: Config) -> dict[str, Participant]:
    """By id, what the cohort stage of this version found when it last ran; nothing where it hasn't."""
    table, makers = config.layout.cohort, _makers(config.output)
    if not table.exists() or makers.get("atlasmith") != __version__:
        return {}
    return {
        subject.id: Participant(
            subject.id,
            subject.role,
            subject.in_template,
            tuple(format_value(subject.covariates.get(key)) for key in config.cohort.covariates),
        )
        for subject in read_cohort(table)
    }


# The files


def _matches(folder: Path, subject: str, suffix: str) -> list[Path]:
    """Absolute paths of a subject's NIfTI files with `suffix`."""
    folder = Path(os.path.abspath(folder / f"sub-{subject}" / "anat"))
    pattern = re.compile(rf"sub-{subject}(_.*)?_{re.escape(suffix)}\.nii(\.gz)?")
    return sorted(path for path in folder.glob("*") if pattern.fullmatch(path.name))


def _find_images(config: Config, ids: Sequence[str], problems: list[Problem]) -> dict[str, Path]:
    bids, suffix = config.cohort.bids, config.cohort.suffix
    found = {name: _matches(bids, name, suffix) for name in ids}
    if ids and not any(found.values()):
        problems.append(
            Problem(
                bids,
                f"no subject has an image sub-X/anat/sub-X_*{suffix}.nii.gz",
                "Check cohort.bids and cohort.suffix; session folders (ses-*) aren't searched.",
            )
        )
        return {}
    for name, paths in found.items():
        if not paths:
            wanted = bids / f"sub-{name}" / "anat" / f"sub-{name}_{suffix}.nii.gz"
            problems.append(
                Problem(wanted, "no such image", "Add it, or remove the subject from participants.tsv.")
            )
        elif len(paths) > 1:
            names = _some([path.name for path in paths])
            problems.append(
                Problem(paths[0].parent, f"several images: {names}", f"Leave one *_{suffix} image there.")
            )
    return {name: paths[0] for name, paths in found.items() if len(paths) == 1}


def _find_labels(config: Config, roles: dict[str, str], problems: list[Problem]) -> dict[str, Path]:
    """A label file is required of an atlas alone."""
    if config.cohort.labels is None:
        problems.append(
            Problem("config: cohort.labels", "this is null", "Name the folder of the atlases' labels.")
        )
        return {}
    folder = config.cohort.bids / config.cohort.labels
    if not folder.is_dir():
        problems.append(
            Problem(folder, "no such folder", "Set cohort.labels to the folder of the atlases' labels.")
        )
        return {}
    labels = {}
    for name, role in roles.items():
        paths = _matches(folder, name, "dseg")
        if len(paths) > 1:
            names = _some([path.name for path in paths])
            problems.append(
                Problem(paths[0].parent, f"several label files: {names}", "Leave one *_dseg file there.")
            )
        elif paths:
            labels[name] = paths[0]
        elif role == "atlas":
            wanted = folder / f"sub-{name}" / "anat" / f"sub-{name}_dseg.nii.gz"
            problems.append(
                Problem(wanted, "the atlas has no labels", "Add them, or give the subject the role 'train'.")
            )
    return labels


def _attempt(problems: list[Problem], check: Callable[..., T], path: Path, *arguments: Any) -> T | None:
    """`check(path, ...)`, or None and its problems."""
    try:
        return check(path, *arguments)
    except InputError as error:
        problems.extend(error.problems)
    except Exception as error:  # readers raise anything at all on damaged bytes
        found = f"this can't be read as NIfTI ({type(error).__name__}: {error})"
        problems.append(Problem(path, found, "Copy or convert it again."))
    return None


def _check_header(path: Path) -> Grid:
    """The closest-RAS grid of a file whose header is sound."""
    file: Any = nib.load(path)
    if len([n for n in file.shape if n > 1]) < 2 or len(file.shape) not in (2, 3):
        _refuse(path, f"the shape is {file.shape}", "Give one volume (X, Y, Z) or slice (X, Y) a subject.")
    if file.get_data_dtype().kind not in "iuf":
        _refuse(path, f"voxels are of type {file.get_data_dtype()}", "Save integers or floats.")
    with ImageOpener(str(path)) as stream:
        # Unchecked, since nibabel mends without a word: it takes a voxel size of 0 for 1.
        raw = type(file.header).from_fileobj(stream, check=False)
    if raw["sizeof_hdr"] != raw.sizeof_hdr:
        _refuse(path, f"the header says it has {raw['sizeof_hdr']} bytes", "Copy or convert it again.")
    zooms = raw["pixdim"][1 : len(file.shape) + 1]
    if not np.all(np.isfinite(zooms)) or np.any(zooms <= 0):
        _refuse(
            path,
            f"voxel sizes are {zooms.tolist()} mm",
            "Write the true ones into the header (pixdim).",
        )
    if np.isinf(raw["scl_slope"]):
        _refuse(path, f"intensities are scaled by {raw['scl_slope']}", "Mend scl_slope in the header.")
    unit = raw.get_xyzt_units()[0]
    if unit not in ("mm", "unknown"):
        _refuse(path, f"its unit is the {unit}", "Write voxel sizes and affine in mm, and say so.")
    matrix = file.affine[:3, :3]
    lengths = np.linalg.norm(matrix, axis=0)
    if not np.all(np.isfinite(file.affine)) or abs(np.linalg.det(matrix)) <= 1e-6 * np.prod(lengths):
        _refuse(
            path,
            f"the affine can't be inverted: {file.affine.tolist()}",
            "Write a valid sform or qform; converting from DICOM again is safest.",
        )
    _check_orientation(path, file)
    return read_grid(path)


def _check_orientation(path: Path, file: Any) -> None:
    """That the header says where the image lies, and doesn't say it twice."""
    forms = [
        form for form in (file.get_qform(coded=True)[0], file.get_sform(coded=True)[0]) if form is not None
    ]
    if not forms:
        _refuse(
            path,
            "the header has neither a qform nor an sform, so nobody knows left from right",
            "Convert it from DICOM again, or set the sform if you know the orientation.",
        )
    shape = (*file.shape, 1)[:3]
    corners = np.array([(*np.multiply(corner, np.subtract(shape, 1)), 1) for corner in np.ndindex(2, 2, 2)])
    places = np.array([corners @ form.T for form in forms])
    apart = float(np.linalg.norm(places[0] - places[-1], axis=1).max())
    if apart > SAME_PLACE * min(file.header.get_zooms()[: len(file.shape)]):
        _refuse(
            path,
            f"qform and sform disagree by up to {apart:.3g} mm, and tools differ in which they believe",
            "Keep the right one: set the other equal to it, or its code to 0.",
        )


def check_image(path: Path) -> None:
    """Raise `InputError` where one image, on its own, can't be used."""
    problems: list[Problem] = []
    if not path.exists():
        problems.append(Problem(path, "there is no such file", "Give the path of a NIfTI image."))
    elif _attempt(problems, _check_header, path) is not None:
        _attempt(problems, _check_voxels, path, 0.0)
    if problems:
        raise InputError(problems)


def foreground_extent(image: Image, margin: float) -> Array:
    """(3,): size of the object along the closest-RAS axes, mm, with `margin` on both sides.

    Where more than a tenth of the voxels have the minimum, that is background, and the object is what lies
    above it by 1 % of the range from the 1st to the 99th percentile. Else the image is a crop: all of it.
    """
    low = image.data.min()
    spacing = np.array(image.grid.spacing)
    if np.mean(image.data == low) <= 0.1:
        return np.array(image.grid.shape) * spacing
    first, last = np.percentile(image.data, [1, 99])
    mask = image.data > low + 0.01 * (last - first)
    extent = []
    for axis in range(3):
        inside = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        extent.append(inside[-1] - inside[0] + 1)
    return np.array(extent) * spacing + 2 * margin


def _check_voxels(path: Path, margin: float) -> Array:
    """The extent of an image whose voxels are sound."""
    image = read_image(path)
    bad = int(np.count_nonzero(~np.isfinite(image.data)))
    if bad:
        _refuse(path, f"{bad} voxels are NaN or infinite", "Replace them, by 0 for example.")
    if image.data.min() == image.data.max():
        _refuse(path, f"every voxel is {image.data.flat[0]:g}", "Replace or leave out the image.")
    return foreground_extent(image, margin)


def _check_labels(path: Path) -> set[int]:
    """The non-zero labels of an atlas."""
    file: Any = nib.load(path)
    data = np.asanyarray(file.dataobj)
    broken = data[data != np.rint(data)] if data.dtype.kind == "f" else data[:0]
    if broken.size:
        _refuse(
            path,
            f"{broken.size} voxels are no integers, such as {broken.flat[0]:g}",
            "Resample labels with nearest neighbor, and save integers.",
        )
    if data.min() < 0 or data.max() > np.iinfo(np.int32).max:
        _refuse(
            path,
            f"labels go from {data.min()} to {data.max()}",
            "Labels lie between 0 and 2147483647.",
        )
    labels = {int(value) for value in np.unique(data)} - {0}
    if not labels:
        _refuse(path, "every voxel is background", "Add labels, or give the subject the role 'train'.")
    return labels


def _read_names(config: Config, labels: set[int], problems: list[Problem]) -> dict[int, str]:
    """Names from the labels' dseg.tsv; `label<k>` where there is none."""
    names: dict[int, str] = {}
    table = config.cohort.bids / (config.cohort.labels or "") / "dseg.tsv"
    if table.is_file():
        try:
            names = {int(row["index"]): row["name"] for row in read_tsv(table)}
        except (KeyError, TypeError, ValueError, csv.Error) as error:
            found = f"this is no table of labels ({type(error).__name__}: {error})"
            problems.append(Problem(table, found, "It needs columns `index`, an integer, and `name`."))
    return {label: names.get(label) or f"label{label}" for label in sorted(labels)}


# The grid


def _flat_axis(grid: Grid) -> int | None:
    """The axis that a 2-D grid doesn't have."""
    return next((axis for axis in range(3) if axis not in grid.axes), None)


def decide_grid(extents: Sequence[Array], flat: int | None, template: TemplateSection) -> Grid:
    """The template's grid: RAS, centered on the world's origin, of the config's spacing.

    extents: (3,) mm for each subject, see `foreground_extent`. flat: the axis that 2-D images don't have.
    Where the config gives no shape, the grid holds the largest extent of each axis, in a multiple of 8
    voxels, so that networks halve it without padding. Raises `InputError` when the config's shape has other
    dimensions than the images.
    """
    if template.shape is None:
        voxels = np.max(extents, axis=0) / template.spacing
        # Less a millionth, so that 48 voxels that came out as 48.0000001 stay 48.
        shape = [8 * max(1, math.ceil(n / 8 - 1e-6)) for n in voxels]
        if flat is not None:
            shape[flat] = 1
    else:
        shape = list(template.shape)
        if flat is not None and len(shape) == 2:
            shape.insert(flat, 1)
        if len(shape) != 3 or [axis for axis in range(3) if shape[axis] == 1] != (
            [] if flat is None else [flat]
        ):
            wanted = (
                "three sizes above 1" if flat is None else f"two sizes above 1 (axis {flat} has one voxel)"
            )
            _refuse("config: template.shape", f"this is {template.shape}", f"Give {wanted}.")
    affine = np.diag([template.spacing] * 3 + [1.0])
    affine[:3, 3] = template.spacing * (1 - np.array(shape)) / 2
    return Grid((shape[0], shape[1], shape[2]), affine)


def training_bytes(grid: Grid, batch_size: int) -> int:
    """Roughly what the training of a template on `grid` needs; for what, see `VOLUMES_PER_IMAGE`."""
    return 4 * math.prod(grid.shape) * (VOLUMES_PER_IMAGE * batch_size + VOLUMES_ONCE)


def _total_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _check_memory(grid: Grid, extents: Sequence[Array], flat: int | None, template: TemplateSection) -> None:
    need, have = training_bytes(grid, template.batch_size), _total_memory()
    if need <= have:
        return
    if template.shape is None:
        spacing = template.spacing
        fitting = grid
        while training_bytes(fitting, template.batch_size) > have:
            spacing = math.ceil(10.5 * spacing) / 10  # 5 % more, to a tenth of a mm
            fitting = decide_grid(extents, flat, template.model_copy(update={"spacing": spacing}))
        remedy = f"Set template.spacing to {spacing:g} mm or more, or lower template.batch_size."
    else:
        remedy = "Lower template.shape (and raise template.spacing), or template.batch_size."
    _refuse(
        "config: template",
        f"training on a grid of {' x '.join(map(str, grid.shape))} voxels of {template.spacing:g} mm "
        f"needs about {need / 2**30:.1f} GiB, and this machine has {have / 2**30:.1f}",
        remedy,
    )


# The output folder


def _flat(value: Any, key: str) -> dict[str, Any]:
    """A nested dict as one of dotted keys."""
    if not isinstance(value, dict) or not value:
        return {key: value}
    return {name: leaf for part in value for name, leaf in _flat(value[part], f"{key}.{part}").items()}


def check_folder(output: Path) -> None:
    """Raise `InputError` when the output folder is a file."""
    if output.exists() and not output.is_dir():
        _refuse(output, "this is a file", "Choose another `output`.")


def check_output(config: Config) -> None:
    """Raise `InputError` when the output folder holds something else, or the results of another config.

    What later stages depend on (fusion, score, report, device) may differ: they are run again. A folder is
    ours when its dataset_description.json says so.
    """
    layout, output = config.layout, config.output
    elsewhere = "Choose another `output`, or remove the folder."
    check_folder(output)
    problems = []
    if layout.config.exists():
        try:
            before = load_config(layout.config)
        except AtlasmithError as error:
            _refuse(layout.config, f"this isn't ours: {error}", elsewhere)
        old, new = (
            {
                key: value
                for name in ("seed", "cohort", "affine", "template", "register")
                for key, value in _flat(values.resolved()[name], name).items()
            }
            for values in (before, config)
        )
        problems = [
            Problem(
                f"{layout.config}: {key}",
                f"the results there were made with {old.get(key)!r}, and this config says {new.get(key)!r}",
                elsewhere,
            )
            for key in sorted(old.keys() | new.keys())
            if old.get(key) != new.get(key)
        ]
    if output.is_dir() and "atlasmith" not in _makers(output):
        # Snakemake makes logs/ before any stage runs.
        others = sorted(p.name for p in output.iterdir() if not p.name.startswith(".") and p.name != "logs")
        if others:
            found = f"the folder holds other files ({_some(others)})"
            problems.append(Problem(output, found, "Choose another `output`; nothing was overwritten."))
    if problems:
        raise InputError(problems)


def _makers(output: Path) -> dict[str, str | None]:
    """What has written in a folder by its description, and which version; nothing where it has none."""
    try:
        makers = read_json(output / "dataset_description.json")["GeneratedBy"]
        return {maker["Name"]: maker.get("Version") for maker in makers}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


# The stage


def check_cohort(config: Config) -> CheckedCohort:
    """Read every image, and the labels of atlases; raises one `InputError` with every problem found.

    The labels of targets and train subjects are attached where there are any, but of their files only the
    header is read.
    """
    problems: list[Problem] = []
    for check in (check_choices, check_output):
        try:
            check(config)
        except InputError as error:
            problems += error.problems
    rows = dict(sorted(_read_table(config, problems).items()))
    roles = {name: row[config.cohort.role] for name, row in rows.items()}
    images = _find_images(config, list(rows), problems)
    label_files = _find_labels(config, roles, problems) if rows else {}

    grids: dict[str, Grid] = {}
    extents: list[Array] = []
    labels: set[int] = set()
    for name in tqdm(rows, desc="cohort", unit="image", disable=None):
        grid = None
        if name in images:
            grid = _attempt(problems, _check_header, images[name])
        if grid is not None:
            grids[name] = grid
            extent = _attempt(problems, _check_voxels, images[name], config.template.margin)
            if extent is not None and _builds(config, rows[name]):
                extents.append(extent)
        if name not in label_files:
            continue
        path = label_files[name]
        label_grid = _attempt(problems, _check_header, path)
        if label_grid is not None and grid is not None and not label_grid.same_as(grid):
            problems.append(
                Problem(
                    path,
                    f"the labels lie on another grid ({label_grid.shape} voxels, "
                    f"affine {label_grid.affine.round(3).tolist()}) than {images[name].name} "
                    f"({grid.shape} voxels, affine {grid.affine.round(3).tolist()})",
                    "Resample them onto the image with nearest neighbor.",
                )
            )
        if label_grid is not None and roles[name] == "atlas":
            labels |= _attempt(problems, _check_labels, path) or set()
    names = _read_names(config, labels, problems)

    flats = {name: _flat_axis(grid) for name, grid in grids.items()}
    grid = None
    if len(set(flats.values())) > 1:
        groups = {
            flat: _some([f"sub-{name}" for name, other in flats.items() if other == flat])
            for flat in flats.values()
        }
        found = "; ".join(
            f"3-D: {group}" if flat is None else f"2-D, one voxel along {'xyz'[flat]}: {group}"
            for flat, group in groups.items()
        )
        problems.append(
            Problem(config.cohort.bids, f"images differ in dimension ({found})", "Keep those of one kind.")
        )
    elif extents:
        flat = next(iter(flats.values()))
        try:
            grid = decide_grid(extents, flat, config.template)
            _check_memory(grid, extents, flat, config.template)
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
    assert grid is not None
    subjects = [
        Subject(
            id=name,
            role=roles[name],
            image=images[name],
            labels=label_files.get(name),
            covariates={key: parse_covariate(row[key]) for key in config.cohort.covariates},
            in_template=_builds(config, row),
        )
        for name, row in rows.items()
    ]
    return CheckedCohort(subjects, names, grid)


def run(config: Config) -> None:
    """Check the cohort, then write config, inputs' hashes, cohort, labels, grid and what makes the output a
    BIDS derivative.

    Nothing is written when there is a problem.
    """
    checked = check_cohort(config)
    layout, output = config.layout, config.output
    # First, because it marks the folder as ours.
    write_json(
        output / "dataset_description.json",
        {
            "Name": f"{config.template.name}: template, registrations and segmentations",
            "BIDSVersion": "1.11.1",
            "DatasetType": "derivative",
            "GeneratedBy": [{"Name": name, "Version": version} for name, version in made_with().items()],
        },
    )
    write_text(output / ".bidsignore", BIDSIGNORE)
    write_text(layout.config, yaml.safe_dump(config.resolved(), sort_keys=False))
    rows = [{"index": index, "name": name} for index, name in checked.label_names.items()]
    write_tsv(layout.labels, rows, ["index", "name"])
    write_json(layout.grid, checked.grid.to_dict())
    files = [file for subject in checked.subjects for file in (subject.image, subject.labels) if file]
    write_text(layout.inputs, checksums(files))
    write_cohort(layout.cohort, checked.subjects, config.cohort.covariates)
