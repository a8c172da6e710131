"""Rigid and affine registration of one image to the reference.

Registration takes place in a grid's *plain* coordinates, millimetres in which SimpleITK sees it: in 3-D its
own world (LPS), in 2-D the plane of the slice. `frame(grid)` leads from there to the world.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from atlasmith.affine.intensity import read_prepared
from atlasmith.config import Config
from atlasmith.errors import AtlasmithError, did_you_mean
from atlasmith.geometry import Array, Grid
from atlasmith.io.files import read_json
from atlasmith.io.images import Image, read_image, write_image
from atlasmith.io.tables import Subject, read_cohort
from atlasmith.io.transforms import LPS, from_sitk, itk_affine, to_sitk, write_affine

SMALLEST_LEVEL = 16  # voxels an axis; a coarser level has too little left to register
SAMPLES = 20_000  # of the metric, at each level
BINS = 32
ITERATIONS = 100  # at most, at each level


@contextmanager
def one_thread() -> Iterator[None]:
    """ITK adds up its metrics in the order its threads end: with one thread, equal inputs give equal bytes."""
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)


def frame(grid: Grid) -> Array:
    """(4, 4): plain coordinates of `grid` to the world. In 2-D the third coordinate is in voxels across."""
    if grid.ndim == 3:
        return LPS
    across = next(axis for axis in range(3) if axis not in grid.axes)
    return grid.affine[:, [*grid.axes, across, 3]] @ np.diag([1 / size for size in grid.tensor_spacing] + [1, 1])


def to_world(plain: Array, template: Grid, subject: Grid) -> Array:
    """A pull-back (4, 4) in plain coordinates as one in world coordinates."""
    return frame(subject) @ plain @ np.linalg.inv(frame(template))


def shift(vector: Array) -> Array:
    """The translation (4, 4) by `vector` (3,)."""
    matrix = np.eye(4)
    matrix[:3, 3] = vector
    return matrix


@dataclass(frozen=True, eq=False)
class Scan:
    """An image ready to be registered, and the two points of it, in plain coordinates (3,), that are aligned
    at the start: the middle of the field of view, and the centre of mass.
    """

    picture: sitk.Image
    grid: Grid
    middle: Array
    mass: Array

    @classmethod
    def of(cls, image: Image, spacing: float) -> Scan:
        """`image` in voxels of about `spacing` mm or larger; it must be smooth enough for that."""
        grid = image.grid.resampled(spacing)
        data = image.data if grid.same_as(image.grid) else resample(image, np.eye(4), grid, fill=0)
        if grid.ndim == 3:
            picture = to_sitk(data, grid)
        else:
            picture = sitk.GetImageFromArray(np.ascontiguousarray(grid.squeeze(data).T))
            picture.SetSpacing(grid.tensor_spacing)
        world = np.append(grid.affine[:3, :3] @ _centre_of_mass(data) + grid.affine[:3, 3], 1)
        back = np.linalg.inv(frame(grid))
        # `frame` of an image's own grid is that of its coarse one only in 3-D; in 2-D both start at voxel 0.
        return cls(picture, grid, (back @ np.append(grid.centre, 1))[:3], (back @ world)[:3])


def _centre_of_mass(data: Array) -> Array:
    """In voxels (3,)."""
    total = float(data.sum(dtype=np.float64))
    if total <= 0:
        return (np.array(data.shape) - 1) / 2
    profiles = [
        data.sum(axis=tuple(other for other in range(3) if other != axis), dtype=np.float64) for axis in range(3)
    ]
    return np.array([profile @ np.arange(profile.size) / total for profile in profiles])


def resample(image: Image, matrix: Array, grid: Grid, fill: float = np.nan) -> Array:
    """`image` pulled back onto `grid` by a world matrix (4, 4), linearly; `fill` outside its field of view."""
    moved = sitk.Resample(
        to_sitk(image.data, image.grid),
        to_sitk(np.zeros(grid.shape, dtype=np.float32), grid),
        itk_affine(matrix),
        sitk.sitkLinear,
        fill,
    )
    return from_sitk(moved)


def similarity(fixed: Scan, moving: Scan, plain: Array) -> float:
    """How well a pull-back (4, 4) in plain coordinates fits: (1 + NCC over the overlap) x overlap, 0 to 2.

    The overlap is the share of the template's grid that lies in the subject's field of view, relative to the
    largest possible: an affine can't gain by moving the image out of sight.
    """
    moved = sitk.GetArrayFromImage(
        sitk.Resample(moving.picture, fixed.picture, _itk(plain, fixed), sitk.sitkLinear, np.nan)
    )
    inside = np.isfinite(moved)
    volumes = [np.prod(scan.grid.tensor_shape) * np.prod(scan.grid.tensor_spacing) for scan in (fixed, moving)]
    overlap = inside.mean() / min(1, volumes[1] / volumes[0])
    a = sitk.GetArrayFromImage(fixed.picture)[inside].astype(np.float64)
    b = moved[inside].astype(np.float64)
    if a.size < 2 or a.std() == 0 or b.std() == 0:
        return 0.0
    return float((1 + np.mean((a - a.mean()) * (b - b.mean())) / (a.std() * b.std())) * min(1, overlap))


def _itk(plain: Array, fixed: Scan) -> sitk.AffineTransform:
    """A pull-back in plain coordinates as SimpleITK wants it."""
    ndim = fixed.grid.ndim
    transform = sitk.AffineTransform(ndim)
    transform.SetMatrix(plain[:ndim, :ndim].ravel().tolist())
    transform.SetTranslation(plain[:ndim, 3].tolist())
    return transform


def optimise(fixed: Scan, moving: Scan, start: Array, kind: str) -> Array:
    """The pull-back (4, 4) in plain coordinates, found from `start` with Mattes mutual information (Mattes et
    al. 2003, doi:10.1109/TMI.2003.809072), coarse to fine. kind: `rigid` or `affine`, relative to `start`.

    Returns `start` where the optimiser fails, as when the images no longer overlap.
    """
    ndim = fixed.grid.ndim
    transforms = {
        ("rigid", 2): sitk.Euler2DTransform,
        ("rigid", 3): sitk.Euler3DTransform,
        ("affine", 2): lambda: sitk.AffineTransform(2),
        ("affine", 3): lambda: sitk.AffineTransform(3),
    }
    transform = transforms[kind, ndim]()
    transform.SetCenter(fixed.middle[:ndim].tolist())
    shape, spacing = fixed.grid.tensor_shape, min(fixed.grid.tensor_spacing)
    factors = [factor for factor in (4, 2) if min(shape) // factor >= SMALLEST_LEVEL] + [1]

    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(BINS)
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentagePerLevel(
        [min(1.0, SAMPLES * factor**ndim / float(np.prod(shape))) for factor in factors], 1
    )
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=spacing, minStep=0.005 * spacing, numberOfIterations=ITERATIONS, relaxationFactor=0.6
    )
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel(factors)
    method.SetSmoothingSigmasPerLevel([factor / 2 * spacing if factor > 1 else 0 for factor in factors])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    method.SetMovingInitialTransform(_itk(start, fixed))
    method.SetInitialTransform(transform, inPlace=True)
    try:
        method.Execute(fixed.picture, moving.picture)
    except RuntimeError:
        return start
    # Where the transform takes the origin and the unit vectors.
    points = np.array([transform.TransformPoint(point) for point in np.eye(ndim + 1, ndim, -1).tolist()])
    found = np.eye(4)
    found[:ndim, :ndim] = (points[1:] - points[0]).T
    found[:ndim, 3] = points[0]
    return start @ found


def best(fixed: Scan, moving: Scan, candidates: Sequence[Array]) -> Array:
    """The most similar of `candidates`, the first of equals: a stage that made things worse is dropped."""
    scores = [similarity(fixed, moving, candidate) for candidate in candidates]
    return candidates[int(np.argmax(scores))]


def register(fixed: Scan, moving: Scan) -> Array:
    """The pull-back (4, 4) in plain coordinates: rigid from both starts, then affine from the better."""
    starts = [shift(moving.mass - fixed.mass), shift(moving.middle - fixed.middle)]
    rigid = best(fixed, moving, [*starts, *(optimise(fixed, moving, start, "rigid") for start in starts)])
    return best(fixed, moving, [rigid, optimise(fixed, moving, rigid, "affine")])


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
    the normalised image on the template's grid, interpolated once; zero outside its field of view.
    Raises `AtlasmithError` for an unknown subject or a missing reference.
    """
    layout = config.layout
    subjects = {subject.id: subject for subject in read_cohort(layout.cohort)}
    if subject_id not in subjects:
        raise AtlasmithError(f"unknown subject '{subject_id}'. {did_you_mean(subject_id, subjects)}")
    if not layout.affine_reference.exists():
        raise AtlasmithError(f"{layout.affine_reference} is missing. Run `atlasmith affine` first.")
    subject = subjects[subject_id]
    grid = Grid.from_dict(read_json(layout.grid))
    spacing = min(grid.tensor_spacing)
    with one_thread():
        image = read_prepared(subject.image, spacing, config.affine.n4)
        check_dimension(subject, image, grid)
        fixed = Scan.of(read_image(layout.affine_reference), spacing)
        moving = Scan.of(image, spacing)
        matrix = to_world(register(fixed, moving), fixed.grid, moving.grid)
        moved = resample(image, matrix, grid, fill=0)
    write_affine(layout.affine(subject_id), matrix)
    write_image(layout.affine_image(subject_id), moved, grid)
