"""Generation of a demo cohort: a body made into subjects with a known truth.

A point b of the base lies in subject s at A_s(exp(v_s)(exp(z_s w)(b))): the age velocity w times the
standardized age z, a random smooth velocity v, with shifts of organs where the body has them, and an affine
pose A. The v of a cohort sum to zero and are uncorrelated with age, so that the base is the cohort's center
and the planted age effect is also its regression on age.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Sequence
from functools import partial, reduce
from pathlib import Path
from typing import Any

import numpy as np
from nibabel import orientations
from scipy import ndimage
from scipy.spatial.transform import Rotation

from atlasmith.core.errors import AtlasmithError, look_up
from atlasmith.core.grid import Array, DisplacementField, Grid, Step
from atlasmith.demo import anatomy
from atlasmith.demo.anatomy import standardize_age
from atlasmith.demo.base import FIELD_SPACING, Base, border_taper, render
from atlasmith.demo.bodies import BODIES
from atlasmith.demo.description import write_descriptions
from atlasmith.demo.warping import apply_affine, compose, displace, exponentiate, world_positions
from atlasmith.io.files import read_json, write_json
from atlasmith.io.images import write_image
from atlasmith.io.layout import Layout
from atlasmith.io.sidecars import write_sidecar
from atlasmith.io.tables import write_tsv
from atlasmith.io.transforms import write_composite

ROLES = {"atlas": 0.4, "target": 0.3, "train": 0.3}
YOUNGEST, OLDEST = 20.0, 90.0
HIGHEST_AGE = 89.0  # in participants.tsv: BIDS hides higher ones
ORIENTATIONS = ("RAS", "LAS", "LPS", "PSR", "LIP", "ASL")

# Voxels of the base.
WARP_SD = 3.5  # of each component of the random velocity within the region
WARP_SMOOTHNESS = 20.0  # standard deviation of the Gaussian that smooths it
LARGEST_TRANSLATION = 10.0  # along each axis
MARGIN = 8.0  # of the field of view around the body


def truth_layout(folder: Path) -> Layout:
    """Name the truth's files: the base as template, and the exact transforms."""
    file = truth_file(folder)
    made_of = read_json(file).get("base") if file.exists() else None
    template, suffix = made_of or (anatomy.BRAIN.template, "T1w")  # before 0.16.0 there were brains alone
    return Layout(folder / "derivatives" / "truth", template, (suffix,))


def truth_file(folder: Path) -> Path:
    """Name the file that says what the cohort was made of, with poses, ages and volumes."""
    return folder / "derivatives" / "truth" / "truth.json"


def base_labels_file(truth: Layout) -> Path:
    """Name the labels of the base."""
    return truth.of_template("res-1", "dseg")


def age_velocity_file(truth: Layout) -> Path:
    """Name the velocity of a standard deviation of age."""
    return truth.of_template("res-2_desc-age", "velocity")


def make_demo(
    folder: Path, seed: int = 0, subjects: int = 20, spacing: float = 3.0, body: str = "brain"
) -> None:
    """Write a demo cohort, a BIDS folder with labels and truth, completely or not at all.

    Args:
        folder: Where to write. A folder that the same call made is left as it is.
        seed: Of all random numbers: the same seed gives the same files.
        subjects: Number of subjects.
        spacing: Voxel size, in voxels of the body's base: mm for a brain or a head, 2 mm for an abdomen, and
            1/16 mm for a mouse. Each subject's differs from it by up to 7 % on each axis.
        body: Name of an entry of `atlasmith.demo.bodies.BODIES`.

    Raises:
        AtlasmithError: If `folder` holds anything else, nilearn isn't installed, or an argument is unusable.
    """
    if subjects < 3 or spacing <= 0 or seed < 0:
        raise AtlasmithError(
            f"a demo of {subjects} subjects at {spacing} voxels with seed {seed}: it needs at least 3 "
            "subjects, a positive spacing and a seed from 0."
        )
    load_base = look_up(BODIES, body, "body")
    folder = Path(folder)
    made_by = {"seed": seed, "subjects": subjects, "spacing": spacing, "body": body}
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        truth = truth_file(folder)
        if truth.exists() and {"body": "brain", **read_json(truth)["made_by"]} == made_by:
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
    """Write all subjects, the table of participants, and the truth."""
    count, seed = made_by["subjects"], made_by["seed"]
    rng = np.random.default_rng([seed, 0])
    ages = np.round(np.linspace(YOUNGEST, OLDEST, count), 1)
    names = [f"{number + 1:0{max(2, len(str(count)))}d}" for number in rng.permutation(count)]
    sexes = rng.permutation(["F", "M"] * (count // 2 + 1))[:count]
    velocities = random_velocities(base, ages, seed)
    decades = np.linspace(YOUNGEST, OLDEST, 8)
    volumes = anatomy.planted_volumes(base, decades.tolist())
    made_of = base.source.template, base.scanner.suffix
    layout = Layout(truth_file(folder).parent, made_of[0], (made_of[1],))
    facts_of: dict[str, dict[str, Any]] = {}
    rows = []
    for index, (name, age, role) in enumerate(zip(names, ages, assign_roles(count), strict=True)):
        facts = _write_subject(folder, layout, base, made_by, index, name, age, velocities[index])
        planted = {key: float(np.interp(age, decades, values)) for key, values in volumes.items()}
        facts_of[name] = {"age": float(age), **planted, **facts}
        shown = {"age": float(min(age, HIGHEST_AGE)), "sex": sexes[index], "role": role}
        rows.append({"participant_id": f"sub-{name}", **shown})
    rows.sort(key=lambda row: str(row["participant_id"]))
    write_tsv(folder / "participants.tsv", rows, ["participant_id", "age", "sex", "role"])
    write_descriptions(folder, base, seed)
    _write_base(layout, base)
    truth: dict[str, Any] = {"made_by": made_by, "base": made_of}
    if base.age_velocity is not None:
        ages_of = {"mean": anatomy.AGE_MEAN, "sd": anatomy.AGE_SD, "ages": decades.tolist(), **volumes}
        truth["age"] = ages_of
    write_json(truth_file(folder), {**truth, "subjects": dict(sorted(facts_of.items()))})


def _write_base(layout: Layout, base: Base) -> None:
    """Write the base's image, labels and age velocity."""
    stripped, image = base.scanner.stripped, base.image
    write_image(layout.template_image, image * (base.soft_labels[-1] > 127) if stripped else image, base.grid)
    write_image(base_labels_file(layout), base.labels, base.grid)
    describe = partial(write_sidecar, layout, grid=base.grid, sources=(), reference=layout.template_image)
    describe(layout.template_image, "What all subjects are made from", skull_stripped=stripped)
    describe(base_labels_file(layout), "Its labels", Manual=False)
    if base.age_velocity is not None:
        write_image(age_velocity_file(layout), base.age_velocity, base.field_grid)


def _write_subject(
    folder: Path,
    layout: Layout,
    base: Base,
    made_by: dict[str, Any],
    index: int,
    name: str,
    age: float,
    velocity: Array,
) -> dict[str, Any]:
    """Write a subject's image, labels and true transforms; returns what the truth records of it besides."""
    rng = np.random.default_rng([made_by["seed"], 2, index])
    grid = base.field_grid
    pose = _random_pose(rng, grid.center, LARGEST_TRANSLATION * base.unit)
    ageing = [] if base.age_velocity is None else [standardize_age(age) * base.age_velocity]
    push = _integrate([*ageing, velocity], grid)
    pull = _integrate([-velocity, *(-each for each in ageing)], grid)
    # The image is made with exactly the field that is written: single precision, linear between voxels.
    pull = pull.astype(np.float32)
    forward: list[Step] = [DisplacementField(grid, push.astype(np.float32)), pose]
    inverse: list[Step] = [np.linalg.inv(pose), DisplacementField(grid, pull)]
    write_composite(layout.forward(name), forward)
    write_composite(layout.inverse(name), inverse)

    body = _part_in_view(base, np.random.default_rng([made_by["seed"], 3, index]))
    body = apply_affine(pose, displace(body, push, grid))
    orientation = ORIENTATIONS[index % len(ORIENTATIONS)]
    degrees = float(rng.uniform(8, 20)) if index % 3 == 2 else 0.0
    axis = rng.normal(size=3)
    tilt = Rotation.from_rotvec(axis / np.linalg.norm(axis) * degrees, degrees=True).as_matrix()
    spacing = np.round(made_by["spacing"] * rng.uniform(0.93, 1.07, 3), 3) * base.unit
    scanner = _scanner_grid(body, spacing, orientation, tilt, MARGIN * base.unit)
    points = displace(apply_affine(np.linalg.inv(pose), world_positions(scanner)), pull, grid)
    image, labels = (values.reshape(scanner.shape) for values in render(base, points))

    stem = f"sub-{name}/anat/sub-{name}"
    write_image(folder / f"{stem}_{layout.suffix}.nii.gz", base.scanner.scan(rng, image), scanner)
    write_image(folder / "derivatives" / "manual" / f"{stem}_dseg.nii.gz", labels, scanner)
    return {"orientation": orientation, "oblique_degrees": degrees, "pose": pose.tolist()}


def _integrate(velocities: Sequence[Array], grid: Grid) -> Array:
    """Compose the displacements (X, Y, Z, 3), mm, of velocities, the first one first."""
    return reduce(partial(compose, grid=grid), [exponentiate(velocity, grid) for velocity in velocities])


def random_velocities(base: Base, ages: Array, seed: int) -> Array:
    """Draw smooth velocities without mean over the subjects, and uncorrelated with their ages.

    Args:
        base: The body; the velocities lie on its `field_grid`, and contain its `shifts`.
        ages: Of the subjects (S,).
        seed: Of the random numbers.

    Returns:
        (S, X, Y, Z, 3), mm.
    """
    grid, sd = base.field_grid, WARP_SD * base.unit
    inside = base.region_fraction(world_positions(grid)).reshape(grid.shape) > 127.5
    velocities = np.empty((len(ages), *grid.shape, 3), dtype=np.float32)
    for index in range(len(ages)):
        noise = np.random.default_rng([seed, 1, index]).standard_normal((*grid.shape, 3))
        smooth = ndimage.gaussian_filter(noise, [*[WARP_SMOOTHNESS / FIELD_SPACING] * 3, 0])
        smooth -= smooth[inside].mean(axis=0)  # a translation is part of the pose
        velocities[index] = smooth * (sd / smooth[inside].std()) * border_taper(grid)[..., None]
    if base.shifts is not None:
        rng = np.random.default_rng([seed, 4])
        shares = [rng.permutation(np.linspace(-1, 1, len(ages))) for _ in base.shifts]
        velocities += np.tensordot(np.stack(shares, axis=1), base.shifts, axes=1)
    design = np.stack([np.ones(len(ages)), (ages - anatomy.AGE_MEAN) / anatomy.AGE_SD], axis=1)
    residual = np.eye(len(ages)) - design @ np.linalg.pinv(design)
    residual *= math.sqrt(len(ages) / (len(ages) - 2))  # the variance that the projection removes
    return np.tensordot(residual.astype(np.float32), velocities, axes=1)


def _random_pose(rng: np.random.Generator, center: Array, largest: float) -> Array:
    """(4, 4): rotation and scale about `center`, and translation by up to `largest` mm along each axis."""
    matrix = np.eye(4)
    scale = rng.uniform(0.93, 1.07) * rng.uniform(0.97, 1.03, 3)
    matrix[:3, :3] = Rotation.from_euler("xyz", rng.uniform(-8, 8, 3), degrees=True).as_matrix() * scale
    matrix[:3, 3] = center - matrix[:3, :3] @ center + rng.uniform(-largest, largest, 3)
    return matrix


def _part_in_view(base: Base, rng: np.random.Generator) -> Array:
    """The points (N, 3) of the body between two heights, at which the field of view ends."""
    height = base.body[:, 2]
    low, high = height.min(), height.max()
    below, above = rng.uniform(0, base.cut) * (high - low)
    return base.body[(height >= low + below) & (height <= high - above)]


def _scanner_grid(points: Array, spacing: Array, orientation: str, tilt: Array, margin: float) -> Grid:
    """A grid in the axis order `orientation`, rotated by `tilt` (3, 3), `margin` mm larger than `points`."""
    axes = orientations.axcodes2ornt(orientation)
    directions = np.zeros((3, 3))
    directions[axes[:, 0].astype(int), range(3)] = axes[:, 1]
    directions = tilt @ directions
    projected = points @ directions
    low, high = projected.min(axis=0) - margin, projected.max(axis=0) + margin
    shape = np.ceil((high - low) / spacing).astype(int) + 1
    affine = np.eye(4)
    affine[:3, :3] = directions * spacing
    affine[:3, 3] = directions @ low
    return Grid((int(shape[0]), int(shape[1]), int(shape[2])), affine)


def assign_roles(count: int) -> list[str]:
    """List roles in the order of age: always the one whose number is furthest below its fraction."""
    roles: list[str] = []
    for index in range(count):
        roles.append(max(ROLES, key=lambda role: ROLES[role] * (index + 1) - roles.count(role)))
    return roles
