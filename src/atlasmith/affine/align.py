"""Rigid and affine registration of one image to the reference, in plain coordinates (see `scan`)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from atlasmith.affine.engines import ENGINES, Engine
from atlasmith.affine.scan import Scan, resample, shift, similarity, to_world
from atlasmith.config import Config
from atlasmith.core.errors import AtlasmithError, did_you_mean, look_up
from atlasmith.core.grid import Array, Grid
from atlasmith.io.files import read_json
from atlasmith.io.images import Image, read_image, write_image
from atlasmith.io.tables import Subject, read_cohort
from atlasmith.io.transforms import write_affine
from atlasmith.preprocess.n4 import read_preprocessed

TOLERANCE = 0.03  # of similarity; a later stage that loses more is dropped
COARSE = 14  # voxels of the longest axis, for scoring many starts
TURNS = (20, 40, 60)  # degrees about each axis, both ways
TRIED = 2  # of the starts that score better than what was found are optimized


@contextmanager
def one_thread() -> Iterator[None]:
    """ITK adds up metrics in the order its threads end: with one thread, equal inputs give equal bytes."""
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)


def best(fixed: Scan, moving: Scan, candidates: Sequence[Array], tolerance: float = 0) -> Array:
    """The last of `candidates` whose similarity is within `tolerance` of the highest."""
    scores = [similarity(fixed, moving, candidate) for candidate in candidates]
    return [c for c, score in zip(candidates, scores, strict=True) if score >= max(scores) - tolerance][-1]


def refined(fixed: Scan, moving: Scan, starts: Sequence[Array], kind: str, engine: Engine) -> Array:
    """The best of what `engine` finds from each of `starts`, or a start where that is better: an engine alone
    may run away."""
    pairs = zip(starts, engine(fixed, moving, starts, kind), strict=True)
    return best(fixed, moving, [best(fixed, moving, pair, TOLERANCE) for pair in pairs])


def turns(ndim: int) -> list[Array]:
    """Rotations (4, 4) by `TURNS` about the cube's axes, edges and corners, or in the plane."""
    if ndim == 2:
        axes = [np.array([0, 0, 1])]
    else:
        # One of each pair of opposite directions: the first component that isn't zero is positive.
        directions = [np.array(d) for d in itertools.product((0, 1, -1), repeat=3) if any(d)]
        axes = [d for d in directions if d[np.flatnonzero(d)[0]] > 0]
    result = []
    for axis, degrees, sign in itertools.product(axes, TURNS, (1, -1)):
        matrix = np.eye(4)
        vector = sign * np.deg2rad(degrees) * axis / np.linalg.norm(axis)
        matrix[:3, :3] = Rotation.from_rotvec(vector).as_matrix()
        result.append(matrix)
    return result


def coarse(scan: Scan) -> Scan:
    """The same scan in few voxels."""
    picture = scan.picture
    factors = [max(1, n // COARSE) for n in picture.GetSize()]
    sigmas = [
        max(1e-3, factor / 2 * size) for factor, size in zip(factors, picture.GetSpacing(), strict=True)
    ]
    # Wider than the voxels become, so that a start needn't be near.
    smooth = sitk.SmoothingRecursiveGaussian(picture, sigmas) if max(factors) > 1 else picture
    return replace(scan, picture=sitk.Shrink(smooth, factors))


def rigid(fixed: Scan, moving: Scan, starts: Sequence[Array], engine: Engine) -> Array:
    """The rigid pull-back (4, 4) in plain coordinates: the best from `starts`, and from turned ones.

    Every turned start is scored in few voxels, which takes a fraction of one optimization; only those that
    score higher than what was found are optimized, and a good alignment has none.
    """
    found = refined(fixed, moving, starts, "rigid", engine)
    few_fixed, few_moving = coarse(fixed), coarse(moving)
    turned = [shift(moving.mass) @ turn @ shift(-fixed.mass) for turn in turns(fixed.grid.ndim)]
    scores = np.array([similarity(few_fixed, few_moving, start) for start in turned])
    level = similarity(few_fixed, few_moving, found)
    better = [turned[i] for i in np.argsort(-scores)[:TRIED] if scores[i] > level]
    if not better:
        return found
    return best(fixed, moving, [found, refined(fixed, moving, better, "rigid", engine)])


def register(fixed: Scan, moving: Scan, engine: Engine) -> Array:
    """The pull-back (4, 4) in plain coordinates: rigid from many starts, then affine from the best."""
    starts = [shift(moving.mass - fixed.mass), shift(moving.middle - fixed.middle)]
    return refined(fixed, moving, [rigid(fixed, moving, starts, engine)], "affine", engine)


def check_dimension(subject: Subject, image: Image, grid: Grid) -> None:
    """Raises `AtlasmithError` when a slice is to be aligned to a volume or the other way round."""
    if image.grid.ndim != grid.ndim:
        raise AtlasmithError(
            f"{subject.image}: {image.grid.shape} voxels are {image.grid.ndim}-D, but the template's grid is "
            f"{grid.ndim}-D, {grid.shape}. Remove the image from the cohort, or mend template.shape."
        )


def align_subject(config: Config, subject_id: str) -> None:
    """Register a subject's image to the affine reference, first rigidly, then affinely.

    Writes `Layout.affine` (RAS pull-back, template world to subject world, mm) and `Layout.affine_image`:
    the normalized image on the template's grid, interpolated once; zero outside its field of view.
    Raises `AtlasmithError` for an unknown subject or a missing reference.
    """
    layout = config.layout
    subjects = {subject.id: subject for subject in read_cohort(layout.cohort)}
    if subject_id not in subjects:
        raise AtlasmithError(f"unknown subject '{subject_id}'. {did_you_mean(subject_id, subjects)}")
    if not layout.affine_reference.exists():
        raise AtlasmithError(f"{layout.affine_reference} is missing. Run `atlasmith affine-reference` first.")
    subject = subjects[subject_id]
    grid = Grid.from_dict(read_json(layout.grid))
    spacing = min(grid.tensor_spacing)
    engine = look_up(ENGINES, config.affine.engine, "affine engine")
    with one_thread():
        image = read_preprocessed(subject.image, spacing, config.affine.n4)
        check_dimension(subject, image, grid)
        fixed = Scan.of(Image(read_image(layout.affine_reference).data, grid), spacing)
        moving = Scan.of(image, spacing)
        matrix = to_world(register(fixed, moving, engine), fixed.grid, moving.grid)
        moved = resample(image, matrix, grid, fill=0)
    write_affine(layout.affine(subject_id), matrix)
    write_image(layout.affine_image(subject_id), moved, grid)
