"""The demo cohort: a real brain made into people with a known truth, and the grades against that truth.

The base is the MNI152 brain that nilearn bundles (nlin 2009a symmetric). A point b of it lies in subject s at
A_s(exp(v_s)(exp(z_s w)(b))): the age velocity w times the standardized age z, a random smooth velocity v and
an affine pose A. The v of a cohort sum to nothing and are uncorrelated with age, so that the base is the
cohort's center and the planted age effect is also its regression on age. Nothing here uses `atlasmith.warp`
to make the truth: scipy does, so the truth is independent of what it grades.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from nibabel import orientations
from scipy import ndimage
from scipy.spatial.transform import Rotation
from torch import Tensor

from atlasmith.config import Config
from atlasmith.core.errors import AtlasmithError
from atlasmith.core.grid import Array, DisplacementField, Grid, Step
from atlasmith.core.world import transform_points
from atlasmith.io.files import read_json, write_json, write_text
from atlasmith.io.images import read_image, read_labels, write_image
from atlasmith.io.layout import Layout
from atlasmith.io.tables import MISSING, read_cohort, read_tsv, write_tsv
from atlasmith.io.transforms import LPS, read_affine, read_composite, to_sitk, write_composite

LABELS = {
    1: "Left-Cerebral-Cortex",
    2: "Right-Cerebral-Cortex",
    3: "Left-Cerebral-White-Matter",
    4: "Right-Cerebral-White-Matter",
    5: "Left-Lateral-Ventricle",
    6: "Right-Lateral-Ventricle",
    7: "Left-Deep-Grey-Matter",
    8: "Right-Deep-Grey-Matter",
    9: "Cerebellum-and-Brainstem",
}
CORTEX, VENTRICLES = (1, 2), (5, 6)
BASE = "MNI152NLin2009aSym"
ROLES = {"atlas": 0.4, "target": 0.3, "train": 0.3}
YOUNGEST, OLDEST = 20.0, 90.0
AGE_MEAN, AGE_SD = 55.0, 20.0
ORIENTATIONS = ("RAS", "LAS", "LPS", "PSR", "LIP", "ASL")

FIELD_SPACING = 4.0  # mm, of the grid of velocities and displacements
FIELD_MARGIN = 24.0  # mm around the brain, over which velocities fade
INTEGRATION_STEPS = 6
WARP_SD = 3.5  # mm, of each component of the random velocity within the brain
WARP_SMOOTHNESS = 20.0  # mm, standard deviation of the Gaussian that smooths it
VENTRICLE_GROWTH = 0.33  # divergence in the ventricles, a standard deviation of age; blurring takes a part
CORTEX_SHRINKAGE = 0.05
NOISE = 0.02  # standard deviation, in units of the brightest tissue
BIAS = 0.12  # standard deviation of the logarithm of the bias field


@dataclass(frozen=True, eq=False)
class Base:
    """The brain that everybody is made from.

    grid: 1 mm, around the brain. image: (X, Y, Z), 0 to 1. labels: (X, Y, Z), see `LABELS`.
    soft_labels: (L + 1, X, Y, Z), shares in 1/255 of each label and, last, of the brain.
    field_grid: the grid of velocities. age_velocity: (X, Y, Z, 3), mm a standard deviation of age, RAS.
    Image and shares are smoothed as larger voxels would, so that sampling them doesn't alias.
    """

    grid: Grid
    image: Array
    labels: Array
    soft_labels: Array
    field_grid: Grid
    age_velocity: Array


def _points(grid: Grid) -> Array:
    """World positions (N, 3) of a grid's voxels."""
    index = np.indices(grid.shape).reshape(3, -1).T
    return index @ grid.affine[:3, :3].T + grid.affine[:3, 3]


def _apply(matrix: Array, points: Array) -> Array:
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def _sample(data: Array, grid: Grid, points: Array) -> Array:
    """Linear values (N,) of `data` (X, Y, Z) at world points (N, 3); zero outside."""
    index = _apply(np.linalg.inv(grid.affine), points).T
    return ndimage.map_coordinates(data, index, output=np.float32, order=1, mode="constant")


def _displaced(points: Array, vectors: Array, grid: Grid) -> Array:
    """Points (N, 3) moved by the displacement (X, Y, Z, 3), mm, that lies on `grid`."""
    return points + np.stack([_sample(vectors[..., axis], grid, points) for axis in range(3)], axis=1)


def _compose(first: Array, second: Array, grid: Grid) -> Array:
    """The displacement (X, Y, Z, 3) of going by `first`, then by `second`."""
    points = _points(grid)
    return (_displaced(points + first.reshape(-1, 3), second, grid) - points).reshape(*grid.shape, 3)


def _exponential(velocity: Array, grid: Grid) -> Array:
    """The displacement of a stationary velocity (X, Y, Z, 3), both in mm, by scaling and squaring."""
    displacement = velocity / 2**INTEGRATION_STEPS
    for _ in range(INTEGRATION_STEPS):
        displacement = _compose(displacement, displacement, grid)
    return displacement


def _standardized(age: float) -> float:
    return (age - AGE_MEAN) / AGE_SD


def _base_labels(grid: Grid, image: Array, gray: Array, white: Array, brain: Array) -> Array:
    """Labels (X, Y, Z) from tissue maps at 1 mm; the regions are set by hand in MNI coordinates."""
    x, y, z = np.meshgrid(
        *(np.arange(n) + start for n, start in zip(grid.shape, grid.affine[:3, 3], strict=True)),
        indexing="ij",
        sparse=True,
    )
    csf = np.clip(brain - gray - white, 0, 1)

    # Lateral ventricles: deep fluid, without the cisterns behind the thalamus and other small pools.
    deep = ndimage.distance_transform_edt(brain) > 18
    ventricles = (csf > 0.5) & deep & (np.abs(x) < 40) & (y > -50) & (y < 40) & (z > -12) & (z < 32)
    ventricles &= ~((y < -28) & (np.abs(x) < 10) & (z < 14) | (y < -22) & (np.abs(x) < 16) & (z < 4))
    pools, _ = ndimage.label(ventricles)
    ventricles &= np.bincount(pools.ravel())[pools] > 300

    # Cerebellum and brainstem: a watershed at 2 mm along the fluid between them and the cerebrum.
    half = (slice(None, None, 2),) * 3
    barrier = (255 * np.clip(1.5 * csf + 0.5 * (1 - image), 0, 1)).astype(np.uint8)[half]
    above = (z > 8) | (y > -30) & (np.abs(x) > 22) | (y > -8) & (z > -30) | (y < -95)
    above = above | (z > -2) & (y > -45) & (y < -10)
    below = (z < -24) & (y < -42) & (y > -85) & (np.abs(x) < 40)
    below = below | (z < -14) & (np.abs(x) < 9) & (y < -20) & (y > -70)
    markers = np.where(below, 2, np.where(above, 1, 0)).astype(np.int16)[half]
    basin = ndimage.watershed_ift(barrier, markers) == 2
    hindbrain = basin.repeat(2, 0).repeat(2, 1).repeat(2, 2)[tuple(slice(n) for n in grid.shape)]

    deep_grey = (x / 33) ** 2 + ((y + 4) / 31) ** 2 + ((z - 5) / 20) ** 2 < 1
    deep_grey &= (gray > 0.4) & (csf < 0.5)
    # Where white matter meets a ventricle, the maps' mixture looks like a rim of cortex.
    rim = ndimage.binary_dilation(ventricles, iterations=4)
    cortex = (gray > white) & ~rim
    left = np.where(cortex, CORTEX[0], 3)
    left = np.where(deep_grey, 7, left)
    labels = left + (x > 0)
    labels = np.where(hindbrain, 9, labels)
    labels = np.where(brain & (csf < np.maximum(gray, white)), labels, 0)
    return np.where(ventricles, VENTRICLES[0] + (x > 0), labels).astype(np.uint8)


def _age_velocity(grid: Grid, labels: Array, brain: Array, field_grid: Grid) -> Array:
    """A curl-free velocity (X, Y, Z, 3), mm, under which ventricles widen, cortex thins, and the brain stays.

    Its divergence is given: positive in the ventricles, negative in the cortex, and in the fluid around
    the brain what keeps the sum at zero. The velocity is the gradient of the solution of Poisson's equation.
    """
    ventricles, cortex = np.isin(labels, VENTRICLES), np.isin(labels, CORTEX)
    fluid = brain & (labels == 0)
    growth = VENTRICLE_GROWTH * ventricles - CORTEX_SHRINKAGE * cortex
    growth = growth - fluid * (growth.sum() / fluid.sum())
    points = _points(field_grid)
    divergence = _sample(ndimage.gaussian_filter(growth.astype(np.float32), FIELD_SPACING / 3), grid, points)
    divergence = divergence.reshape(field_grid.shape)
    spectrum = np.fft.fftn(divergence - divergence.mean())
    waves = [2 * np.pi * np.fft.fftfreq(n, FIELD_SPACING) for n in field_grid.shape]
    k = np.stack(np.meshgrid(*waves, indexing="ij"))
    square = (k**2).sum(axis=0)
    square[0, 0, 0] = 1
    velocity = np.fft.ifftn(-1j * k * spectrum / square, axes=(1, 2, 3)).real
    return np.moveaxis(velocity, 0, -1) * _fade(field_grid)[..., None]


def _fade(grid: Grid) -> Array:
    """(X, Y, Z): one within, falling smoothly to zero over the outer `FIELD_MARGIN` of the grid."""
    weight = np.ones(grid.shape)
    for axis, (n, size) in enumerate(zip(grid.shape, grid.spacing, strict=True)):
        edge = np.minimum(np.arange(n), np.arange(n)[::-1]) * size / FIELD_MARGIN
        ramp = np.sin(np.pi / 2 * np.clip(edge, 0, 1)) ** 2
        weight *= ramp.reshape([-1 if a == axis else 1 for a in range(3)])
    return weight


@lru_cache(maxsize=2)
def load_base(spacing: float) -> Base:
    """The base for images of about `spacing` mm; raises `AtlasmithError` where nilearn isn't installed."""
    try:
        from nilearn import datasets
    except ImportError:
        raise AtlasmithError(
            "the demo needs nilearn. Install it with `pip install 'atlasmith[demo]'`."
        ) from None

    names = ("template", "gm_template", "wm_template", "brain_mask")
    maps = [getattr(datasets, f"load_mni152_{name}")(resolution=1) for name in names]
    whole = Grid(maps[0].shape, maps[0].affine)
    image, gray, white, brain = (np.asarray(each.dataobj, dtype=np.float32) for each in maps)
    occupied = ndimage.find_objects((brain > 0.5).astype(np.int8))[0]
    box = tuple(slice(max(s.start - 4, 0), s.stop + 4) for s in occupied)
    grid = whole.cropped([slice(s.start, min(s.stop, n)) for s, n in zip(box, whole.shape, strict=True)])
    image, gray, white, inside = image[box], gray[box], white[box], brain[box] > 0.5
    image = image * inside
    labels = _base_labels(grid, image, gray, white, inside)

    sigma = spacing / 3  # mm: the blur of such a voxel
    masks = [*(labels == label for label in LABELS), inside]
    soft = [
        np.rint(255 * ndimage.gaussian_filter(m.astype(np.float32), sigma)).astype(np.uint8) for m in masks
    ]

    # A mean over what lies within, so that the outside does not dim the edge of the brain.
    blurred = ndimage.gaussian_filter(image, sigma)
    coverage = ndimage.gaussian_filter(inside.astype(np.float32), sigma)
    image = np.where(coverage > 0.05, blurred / np.maximum(coverage, 0.05), 0).astype(np.float32)

    length = np.ceil((np.array(grid.shape) + 2 * FIELD_MARGIN) / FIELD_SPACING).astype(int) + 1
    affine = np.diag([FIELD_SPACING] * 3 + [1.0])
    affine[:3, 3] = grid.center - (length - 1) / 2 * FIELD_SPACING
    field_grid = Grid((int(length[0]), int(length[1]), int(length[2])), affine)
    velocity = _age_velocity(grid, labels, inside, field_grid)
    return Base(grid, image, labels, np.stack(soft), field_grid, velocity.astype(np.float32))


def render(base: Base, points: Array) -> tuple[Array, Array]:
    """Image (N,), 0 to 1, and labels (N,), by one-hot linear and argmax, at points (N, 3) of the base."""
    shares = np.stack([_sample(share, base.grid, points) for share in base.soft_labels])
    background = np.maximum(255 - shares[:-1].sum(axis=0), 0)
    labels = np.concatenate([background[None], shares[:-1]]).argmax(axis=0)
    brain = shares[-1] > 127.5
    return _sample(base.image, base.grid, points) * brain, (labels * brain).astype(np.uint8)


def _random_velocities(base: Base, ages: Array, seed: int) -> Array:
    """(S, X, Y, Z, 3), mm: smooth, without mean over the subjects and uncorrelated with their ages."""
    grid = base.field_grid
    inside = _sample(base.soft_labels[-1], base.grid, _points(grid)).reshape(grid.shape) > 127.5
    velocities = np.empty((len(ages), *grid.shape, 3), dtype=np.float32)
    for index in range(len(ages)):
        noise = np.random.default_rng([seed, 1, index]).standard_normal((*grid.shape, 3))
        smooth = ndimage.gaussian_filter(noise, [*[WARP_SMOOTHNESS / FIELD_SPACING] * 3, 0])
        smooth -= smooth[inside].mean(axis=0)  # moving as a whole is the pose's part
        velocities[index] = smooth * (WARP_SD / smooth[inside].std()) * _fade(grid)[..., None]
    design = np.stack([np.ones(len(ages)), (ages - AGE_MEAN) / AGE_SD], axis=1)
    residual = np.eye(len(ages)) - design @ np.linalg.pinv(design)
    residual *= math.sqrt(len(ages) / (len(ages) - 2))  # the variance that the projection takes
    return np.tensordot(residual.astype(np.float32), velocities, axes=1)


def _pose(rng: np.random.Generator, center: Array) -> Array:
    """(4, 4): rotation and scale about `center`, and translation."""
    matrix = np.eye(4)
    scale = rng.uniform(0.93, 1.07) * rng.uniform(0.97, 1.03, 3)
    matrix[:3, :3] = Rotation.from_euler("xyz", rng.uniform(-8, 8, 3), degrees=True).as_matrix() * scale
    matrix[:3, 3] = center - matrix[:3, :3] @ center + rng.uniform(-10, 10, 3)
    return matrix


def _scanner_grid(points: Array, spacing: Array, orientation: str, tilt: Array) -> Grid:
    """A grid in the axis order `orientation`, turned by `tilt` (3, 3), 8 mm wider than `points` (N, 3)."""
    axes = orientations.axcodes2ornt(orientation)
    directions = np.zeros((3, 3))
    directions[axes[:, 0].astype(int), range(3)] = axes[:, 1]
    directions = tilt @ directions
    along = points @ directions
    low, high = along.min(axis=0) - 8, along.max(axis=0) + 8
    shape = np.ceil((high - low) / spacing).astype(int) + 1
    affine = np.eye(4)
    affine[:3, :3] = directions * spacing
    affine[:3, 3] = directions @ low
    return Grid((int(shape[0]), int(shape[1]), int(shape[2])), affine)


def _bias(rng: np.random.Generator, shape: Sequence[int]) -> Array:
    """(X, Y, Z): a smooth gain around one."""
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    powers = [(i, j, k) for i in range(3) for j in range(3) for k in range(3) if 0 < i + j + k <= 2]
    field = sum(rng.normal() * axes[0] ** i * axes[1] ** j * axes[2] ** k for i, j, k in powers)
    field = np.asarray(field) - np.mean(field)
    return np.exp(field * BIAS / field.std())


def truth_layout(folder: Path) -> Layout:
    """Names of the truth's files: the base as template, exact transforms, ages and volumes."""
    return Layout(folder / "derivatives" / "truth", BASE, "T1w")


def _truth_file(folder: Path) -> Path:
    return folder / "derivatives" / "truth" / "truth.json"


def _age_file(folder: Path) -> Path:
    return truth_layout(folder).of_template("res-2_desc-age", "velocity")


def _roles(count: int) -> list[str]:
    """Roles in the order of age: always the one that is furthest behind its share."""
    roles: list[str] = []
    for index in range(count):
        roles.append(max(ROLES, key=lambda role: ROLES[role] * (index + 1) - roles.count(role)))
    return roles


def planted_volumes(base: Base, ages: Sequence[float]) -> dict[str, list[float]]:
    """Volumes in ml of ventricles and cortex of the base at each age, without random warp and pose."""
    grid = base.grid.resampled(2.0)
    points = _points(grid)
    millilitres = float(np.prod(grid.spacing)) / 255 / 1000
    volumes: dict[str, list[float]] = {"ventricle_ml": [], "cortex_ml": []}
    for age in ages:
        pull = _exponential(-_standardized(age) * base.age_velocity, base.field_grid)
        moved = _displaced(points, pull, base.field_grid)
        for name, labels in (("ventricle_ml", VENTRICLES), ("cortex_ml", CORTEX)):
            total = sum(float(_sample(base.soft_labels[i - 1], base.grid, moved).sum()) for i in labels)
            volumes[name].append(total * millilitres)
    return volumes


def make_demo(folder: Path, seed: int = 0, subjects: int = 20, spacing: float = 3.0) -> None:
    """Write the demo cohort, BIDS with labels and truth, whole or not at all.

    spacing: mm; each subject's differs from it by up to 7 % an axis. A folder that the same call made is left
    as it is. Raises `AtlasmithError` when `folder` holds anything else, or nilearn isn't installed.
    """
    if subjects < 3 or spacing <= 0 or seed < 0:
        raise AtlasmithError(
            f"a demo of {subjects} subjects at {spacing} mm with seed {seed}: it needs at least 3 subjects, "
            "a positive spacing and a seed from 0."
        )
    folder = Path(folder)
    made_by = {"seed": seed, "subjects": subjects, "spacing": spacing}
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        truth = _truth_file(folder)
        if truth.exists() and read_json(truth)["made_by"] == made_by:
            return
        raise AtlasmithError(
            f"{folder} holds something other than this demo cohort. Remove it, or choose another --out."
        )
    base = load_base(spacing)
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".partial-{os.getpid()}-{folder.name}")
    try:
        _write_cohort(partial, base, made_by)
        partial.replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_cohort(folder: Path, base: Base, made_by: dict[str, Any]) -> None:
    count, seed = made_by["subjects"], made_by["seed"]
    rng = np.random.default_rng([seed, 0])
    ages = np.round(np.linspace(YOUNGEST, OLDEST, count), 1)
    names = [f"{number + 1:0{max(2, len(str(count)))}d}" for number in rng.permutation(count)]
    sexes = rng.permutation(["F", "M"] * (count // 2 + 1))[:count]
    velocities = _random_velocities(base, ages, seed)
    decades = np.linspace(YOUNGEST, OLDEST, 8)
    volumes = planted_volumes(base, decades.tolist())
    truth: dict[str, Any] = {
        "made_by": made_by,
        "age": {"mean": AGE_MEAN, "sd": AGE_SD, "ages": decades.tolist(), **volumes},
        "subjects": {},
    }
    rows = []
    for index, (name, age, role) in enumerate(zip(names, ages, _roles(count), strict=True)):
        facts = _write_subject(folder, base, made_by, index, name, age, velocities[index])
        planted = {key: float(np.interp(age, decades, values)) for key, values in volumes.items()}
        truth["subjects"][name] = {"age": float(age), **planted, **facts}
        rows.append({"participant_id": f"sub-{name}", "age": float(age), "sex": sexes[index], "role": role})

    rows.sort(key=lambda row: str(row["participant_id"]))
    truth["subjects"] = dict(sorted(truth["subjects"].items()))
    write_tsv(folder / "participants.tsv", rows, ["participant_id", "age", "sex", "role"])
    generated = [{"Name": "atlasmith demo", "Description": f"seed {seed}"}]
    credit = "MNI152 nonlinear symmetric 2009a, Fonov et al. 2011, doi:10.1016/j.neuroimage.2010.07.033"
    common = {"BIDSVersion": "1.11.1", "HowToAcknowledge": credit, "GeneratedBy": generated}
    description = "dataset_description.json"
    write_json(folder / description, {"Name": "atlasmith demo", "DatasetType": "raw", **common})
    for part in ("manual", "truth"):
        value = {"Name": f"atlasmith demo - {part}", "DatasetType": "derivative", **common}
        write_json(folder / "derivatives" / part / description, value)
    table = [{"index": index, "name": name} for index, name in LABELS.items()]
    write_tsv(folder / "derivatives" / "manual" / "dseg.tsv", table, ["index", "name"])
    write_text(folder / "derivatives" / "truth" / ".bidsignore", "*_xfm.*\n*_velocity.*\ntruth.json\n")

    layout = truth_layout(folder)
    write_image(layout.template_image, base.image * (base.soft_labels[-1] > 127), base.grid)
    write_image(layout.of_template("res-1", "dseg"), base.labels, base.grid)
    write_image(_age_file(folder), base.age_velocity, base.field_grid)
    write_json(_truth_file(folder), truth)


def _write_subject(
    folder: Path, base: Base, made_by: dict[str, Any], index: int, name: str, age: float, velocity: Array
) -> dict[str, Any]:
    """Write a subject's image, labels and true transforms; returns what the truth keeps besides."""
    rng = np.random.default_rng([made_by["seed"], 2, index])
    grid, ageing = base.field_grid, _standardized(age) * base.age_velocity
    pose = _pose(rng, base.grid.center)
    push = _compose(_exponential(ageing, grid), _exponential(velocity, grid), grid)
    pull = _compose(_exponential(-velocity, grid), _exponential(-ageing, grid), grid)
    # The image is made with exactly the field that is kept: single precision, linear between voxels.
    pull = pull.astype(np.float32)
    forward: list[Step] = [DisplacementField(grid, push.astype(np.float32)), pose]
    inverse: list[Step] = [np.linalg.inv(pose), DisplacementField(grid, pull)]
    layout = truth_layout(folder)
    write_composite(layout.forward(name), forward)
    write_composite(layout.inverse(name), inverse)

    brain = _points(base.grid.resampled(4.0))
    brain = brain[_sample(base.soft_labels[-1], base.grid, brain) > 127.5]
    brain = _apply(pose, _displaced(brain, push, grid))
    orientation = ORIENTATIONS[index % len(ORIENTATIONS)]
    degrees = float(rng.uniform(8, 20)) if index % 3 == 2 else 0.0
    axis = rng.normal(size=3)
    tilt = Rotation.from_rotvec(axis / np.linalg.norm(axis) * degrees, degrees=True).as_matrix()
    spacing = np.round(made_by["spacing"] * rng.uniform(0.93, 1.07, 3), 3)
    scanner = _scanner_grid(brain, spacing, orientation, tilt)
    points = _displaced(_apply(np.linalg.inv(pose), _points(scanner)), pull, grid)
    image, labels = (values.reshape(scanner.shape) for values in render(base, points))

    noisy = np.abs(
        image * _bias(rng, scanner.shape)
        + NOISE * rng.standard_normal(scanner.shape)
        + 1j * NOISE * rng.standard_normal(scanner.shape)
    )
    scanned = np.rint(noisy * rng.uniform(300, 1500) * (image > 0)).astype(np.int16)
    stem = f"sub-{name}/anat/sub-{name}"
    write_image(folder / f"{stem}_T1w.nii.gz", scanned, scanner)
    write_image(folder / "derivatives" / "manual" / f"{stem}_dseg.nii.gz", labels, scanner)
    return {"orientation": orientation, "oblique_degrees": degrees, "pose": pose.tolist()}


# Grades


def grade(config: Config) -> dict[str, float]:
    """Grade a run over the demo cohort against its truth; writes `scores/demo.tsv` and prints what matters.

    Returns the values by metric: registration error in mm between pairs of subjects, Dice of each fused
    method, and the age effect on the ventricles as the template shows it. Raises `AtlasmithError` where the
    cohort isn't a demo, a stage hasn't run, or the template can't be laid over the truth.
    """
    folder = config.cohort.bids
    if not _truth_file(folder).exists():
        raise AtlasmithError(
            f"{_truth_file(folder)} is missing: only a cohort made by `atlasmith demo` is graded."
        )
    layout = config.layout
    needed = [layout.summary, layout.template_description, layout.template_image]
    missing = [str(path) for path in needed if not path.exists()]
    if missing:
        raise AtlasmithError(f"missing: {', '.join(missing)}. Run the whole workflow first.")
    values = {**registration_errors(config), **_fused_dice(layout), **age_effect(config)}
    rows = [{"metric": name, "value": value, "unit": _unit(name)} for name, value in values.items()]
    write_tsv(layout.output / "scores" / "demo.tsv", rows, ["metric", "value", "unit"])
    errors = " -> ".join(f"{values[f'error_{stage}_median']:.2f}" for stage in STAGES)
    print(f"registration error, median, before -> after affine -> after warping: {errors} mm")
    for name in values:
        if name.startswith("dice_"):
            print(f"Dice of {name.removeprefix('dice_')}: {values[name]:.3f}")
    print(f"age effect on the ventricles, share of the planted one: {values['age_effect_share']:.2f}")
    print(f"report: {layout.report}")
    return values


STAGES = ("before", "affine", "warped")


def _unit(metric: str) -> str:
    if metric.startswith("error_") or metric == "template_blur":
        return "mm"
    return "ml/decade" if metric.startswith("age_slope") else "1"


def points_in_brain(truth: Layout, count: int, seed: int) -> Tensor:
    """`count` points (N, 3) in the brain that the cohort was made from, RAS mm."""
    base = read_labels(truth.of_template("res-1", "dseg"))
    voxels = np.argwhere(base.data > 0)
    chosen = np.random.default_rng(seed).choice(len(voxels), count, replace=False)
    return torch.from_numpy(_apply(base.grid.affine, voxels[chosen])).double()


def registration_errors(config: Config, count: int = 1000) -> dict[str, float]:
    """Median and 95th percentile, mm, over ordered pairs (i, j) of subjects and `count` points in j's brain.

    A point of j's world goes to i's through the planted transforms, and as each stage has it: before (the
    worlds as they are), after affine, after warping (j to template, template to i). The worlds of both
    include the subjects' ages, so what the template's own change with age leaves undone counts as error.
    """
    truth, ours = truth_layout(config.cohort.bids), config.layout
    ids = [subject.id for subject in read_cohort(ours.cohort)]
    paths = [path(i) for i in ids for path in (ours.affine, ours.forward, ours.inverse)]
    missing = [str(path) for path in paths if not path.exists()]
    if missing:
        raise AtlasmithError(
            f"missing: {', '.join(missing[:3])} ({len(missing)} in all). Run `register` first."
        )
    seeds = points_in_brain(truth, count, config.seed)
    true_forward = {i: read_composite(truth.forward(i)) for i in ids}
    our_forward = {i: read_composite(ours.forward(i)) for i in ids}
    affine = {i: read_affine(ours.affine(i)) for i in ids}
    errors: dict[str, list[Array]] = {stage: [] for stage in STAGES}
    for j in ids:
        points = transform_points(true_forward[j], seeds)
        in_base = transform_points(read_composite(truth.inverse(j)), points)
        in_template = transform_points(read_composite(ours.inverse(j)), points)
        after_affine = transform_points([np.linalg.inv(affine[j])], points)
        for i in ids:
            if i == j:
                continue
            expected = transform_points(true_forward[i], in_base)
            found = {
                "before": points,
                "affine": transform_points([affine[i]], after_affine),
                "warped": transform_points(our_forward[i], in_template),
            }
            for stage, where in found.items():
                errors[stage].append(torch.linalg.vector_norm(where - expected, dim=1).numpy())
    result = {}
    for stage, parts in errors.items():
        pooled = np.concatenate(parts)
        result[f"error_{stage}_median"] = float(np.median(pooled))
        result[f"error_{stage}_p95"] = float(np.quantile(pooled, 0.95))
    return result


def _fused_dice(layout: Layout) -> dict[str, float]:
    """Mean Dice over labels and targets of each fused method, from the scores' summary."""
    rows = [
        row
        for row in read_tsv(layout.summary)
        if (row["stage"], row["label"], row["metric"]) == ("fuse", "mean", "dice") and row["mean"] != MISSING
    ]
    if not rows:
        raise AtlasmithError(
            f"{layout.summary} has no Dice of a fused segmentation. Run `fuse` and `score` first."
        )
    return {f"dice_{row['method']}": float(row["mean"]) for row in rows}


def _views(layout: Layout) -> dict[float, Path]:
    """Template images by age, the other covariates being equal."""
    cohort = read_json(layout.template_description).get("cohort", {})
    by_age: dict[float, Path] = {}
    others: list[dict[str, Any]] = []
    for index, entry in cohort.items():
        covariates = dict(entry["covariates"])
        age = covariates.pop("age", None)
        others.append(covariates)
        if age is not None and covariates == others[0]:
            by_age[float(age)] = layout.template_at(int(index))
    if len(by_age) < 3:
        raise AtlasmithError(
            f"{layout.template_description}: {len(by_age)} template images at different ages; the age effect "
            "needs 3. Set template.condition_on: [age] and template.evaluate_at: {age: [...]}."
        )
    return dict(sorted(by_age.items()))


def age_effect(config: Config) -> dict[str, float]:
    """How much of the planted change of the ventricles with age the conditional template shows.

    The truth is rendered as pictures too: the base at each age of a template image, on the template's grid,
    under one affine alignment to the mean template, and with the blur (Gaussian, in steps of half a mm)
    that makes it most like the mean template. On both series the same is measured: the soft volume of dark
    voxels within 6 mm of the base's ventricles, where darkness rises linearly from none to full around the
    middle between the region's 2nd percentile and its median, both pooled over the series. Returned are
    both slopes of that volume (ml a decade), their ratio, the blur, and the correlation of truth and
    template within the brain at mean age, below 0.7 of which `AtlasmithError` is raised.
    """
    views = _views(config.layout)
    template = read_image(config.layout.template_image)
    folder = config.cohort.bids
    truth = truth_layout(folder)
    base_image, base_labels = (
        read_image(truth.template_image),
        read_labels(truth.of_template("res-1", "dseg")),
    )
    velocity = read_image(_age_file(folder))
    points = _apply(
        _align(template.data, template.grid, base_image.data, base_image.grid), _points(template.grid)
    )

    def render_at(age: float) -> Array:
        pull = _exponential(-_standardized(age) * velocity.data, velocity.grid)
        image = _sample(base_image.data, base_image.grid, _displaced(points, pull, velocity.grid))
        return image.reshape(template.grid.shape)

    def blurred(image: Array, blur: float) -> Array:
        return ndimage.gaussian_filter(image, blur / np.array(template.grid.spacing)).ravel()

    brain = _sample((base_image.data > 0).astype(np.float32), base_image.grid, points) > 0.5
    middle, target = render_at(AGE_MEAN), template.data.ravel()[brain]
    likeness, blur = max(
        (float(np.corrcoef(blurred(middle, blur)[brain], target)[0, 1]), blur)
        for blur in np.arange(0, 6, 0.5).tolist()
    )
    if not likeness > 0.7:
        raise AtlasmithError(
            f"{config.layout.template_image}: its correlation with the demo's true brain is {likeness:.2f}, "
            "so the age effect can't be measured. Look at the report: this template is not that brain."
        )
    ventricles = np.isin(base_labels.data, VENTRICLES)
    near = ndimage.distance_transform_edt(~ventricles) <= 6  # the base's voxels are 1 mm
    region = _sample(near.astype(np.float32), base_labels.grid, points) > 0.5
    ours = [read_image(path).data.ravel()[region] for path in views.values()]
    planted = [blurred(render_at(age), blur)[region] for age in views]
    voxel = float(np.prod(template.grid.spacing)) / 1000
    slopes = [
        float(np.polyfit(list(views), voxel * _dark_voxels(np.stack(series)), 1)[0] * 10)
        for series in (ours, planted)
    ]
    return {
        "age_slope_template": slopes[0],
        "age_slope_planted": slopes[1],
        "age_effect_share": slopes[0] / slopes[1],
        "template_blur": blur,
        "template_truth_correlation": likeness,
    }


def _dark_voxels(series: Array) -> Array:
    """Soft number of dark voxels (A,) of each image of a series (A, N)."""
    dark, bright = np.quantile(series, 0.02), np.median(series)
    share = (bright - series) / (bright - dark)  # 0 tissue, 1 fluid
    return np.clip(2 * share - 0.5, 0, 1).sum(axis=1)


def _align(fixed: Array, fixed_grid: Grid, moving: Array, moving_grid: Grid) -> Array:
    """The affine (4, 4), RAS mm, from points of `fixed` to points of `moving`, by Mattes MI."""
    images = [to_sitk(fixed.astype(np.float32), fixed_grid), to_sitk(moving.astype(np.float32), moving_grid)]
    transform = sitk.CenteredTransformInitializer(
        *images, sitk.AffineTransform(3), sitk.CenteredTransformInitializerFilter.MOMENTS
    )
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)  # sums in the same order, so the same result
    method.SetMetricAsMattesMutualInformation(32)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-3, 200)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([2, 1])
    method.SetSmoothingSigmasPerLevel([4, 2])
    method.SetSmoothingSigmasAreSpecifiedInPhysicalUnits(True)
    method.SetInitialTransform(transform, inPlace=True)
    method.Execute(*images)
    lps = np.eye(4)
    lps[:3, 3] = transform.TransformPoint((0.0, 0.0, 0.0))
    lps[:3, :3] = (
        np.stack([transform.TransformPoint(row) for row in np.eye(3).tolist()], axis=1) - lps[:3, 3:]
    )
    return LPS @ lps @ LPS
