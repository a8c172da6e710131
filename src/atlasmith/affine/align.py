"""Rigid and affine registration of one image to the reference.

Registration takes place in a grid's *plain* coordinates, millimetres in which SimpleITK sees it: in 3-D its
own world (LPS), in 2-D the plane of the slice. `frame(grid)` leads from there to the world.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from atlasmith.affine.intensity import read_prepared
from atlasmith.config import Config
from atlasmith.errors import AtlasmithError, did_you_mean
from atlasmith.geometry import Array, Grid
from atlasmith.io.files import read_json
from atlasmith.io.images import Image, read_image, write_image
from atlasmith.io.tables import Subject, read_cohort
from atlasmith.io.transforms import LPS, from_sitk, itk_affine, to_sitk, write_affine

BLURS = (2, 1, 0)  # levels: sigma of the smoothing, voxels
SMALLEST_AXIS, SMALLEST_LEVEL = 16, 4000  # voxels that a level keeps; fewer can't fill a joint histogram
SAMPLES = 20_000  # of the metric, at each level
BINS = 32
OVERLAP = 0.8  # of the largest possible; losing more of it counts against a transform
TOLERANCE = 0.03  # of similarity; a later stage that loses more is dropped
OBJECT = 0.1  # normalised intensity above which a voxel belongs to the object
ITERATIONS = 60  # at most, at each level
COARSE = 14  # voxels of the longest axis, for scoring many starts
TURNS = (20, 40, 60)  # degrees about each axis, both ways
TRIED = 2  # of the starts that score better than what was found are optimised


@contextmanager
def one_thread() -> Iterator[None]:
    """ITK adds up metrics in the order its threads end: with one thread, equal inputs give equal bytes."""
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
    return grid.affine[:, [*grid.axes, across, 3]] @ np.diag(
        [1 / size for size in grid.tensor_spacing] + [1, 1]
    )


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
    """An image ready to be registered, and three points of it in plain coordinates (3,): the middle of the
    field of view, the centre of mass, and the middle of the object's bounding box.
    """

    picture: sitk.Image
    grid: Grid
    middle: Array
    mass: Array
    box: Array

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
        middle = (np.array(grid.shape) - 1) / 2
        mass, box = middle.copy(), middle.copy()
        for axis in range(3):
            others = tuple(other for other in range(3) if other != axis)
            profile = data.sum(axis=others, dtype=np.float64)
            occupied = np.flatnonzero(data.max(axis=others) > OBJECT)
            if occupied.size:
                mass[axis] = profile @ np.arange(profile.size) / profile.sum()
                box[axis] = (occupied[0] + occupied[-1]) / 2
        to_plain = np.linalg.inv(frame(grid)) @ grid.affine
        return cls(picture, grid, *((to_plain @ np.append(point, 1))[:3] for point in (middle, mass, box)))


def resample(image: Image, matrix: Array, grid: Grid, fill: float = np.nan) -> Array:
    """`image` pulled back onto `grid` by a world matrix (4, 4), linearly; `fill` where it has no voxels."""
    moved = sitk.Resample(
        to_sitk(image.data, image.grid),
        to_sitk(np.zeros(grid.shape, dtype=np.float32), grid),
        itk_affine(matrix),
        sitk.sitkLinear,
        fill,
    )
    return from_sitk(moved)


def similarity(fixed: Scan, moving: Scan, plain: Array) -> float:
    """How well a pull-back (4, 4) in plain coordinates fits: 1 + NCC over the overlap, times a factor that
    falls from 1 to 0 as the overlap does from `OVERLAP` to 0, so that moving the image out of sight gains
    nothing. The overlap is the share of the fixed image's non-zero voxels that lie in the moving image's
    field of view, relative to the largest that is possible.
    """
    resampled = sitk.Resample(moving.picture, fixed.picture, _itk(plain, fixed), sitk.sitkLinear, np.nan)
    moved, target = sitk.GetArrayFromImage(resampled), sitk.GetArrayFromImage(fixed.picture)
    inside, occupied = np.isfinite(moved), target > 0
    wanted = occupied.sum() * np.prod(fixed.picture.GetSpacing())
    offered = moving.picture.GetNumberOfPixels() * np.prod(moving.picture.GetSpacing())
    a, b = target[inside].astype(np.float64), moved[inside].astype(np.float64)
    if wanted == 0 or a.size == 0 or a.std() == 0 or b.std() == 0:
        return 0.0
    overlap = np.mean(inside[occupied]) / min(1, offered / wanted)
    ncc = np.mean((a - a.mean()) * (b - b.mean())) / (a.std() * b.std())
    return float((1 + ncc) * min(1, overlap / OVERLAP))


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
    transform: sitk.Euler2DTransform | sitk.Euler3DTransform | sitk.AffineTransform
    if kind == "affine":
        transform = sitk.AffineTransform(ndim)
    else:
        transform = sitk.Euler2DTransform() if ndim == 2 else sitk.Euler3DTransform()
    transform.SetCenter(fixed.middle[:ndim].tolist())
    shape, spacing = fixed.grid.tensor_shape, min(fixed.grid.tensor_spacing)
    shrinks = [_shrink(shape, blur) for blur in BLURS]

    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(BINS)
    method.SetMetricSamplingStrategy(method.REGULAR)
    # The rigid stage and the smoothed levels are starts only, for which a quarter of the samples is enough.
    wanted = [SAMPLES if kind == "affine" and blur == 0 else SAMPLES // 4 for blur in BLURS]
    offered = [float(np.prod(shape)) / shrink**ndim for shrink in shrinks]
    shares = [min(1.0, count / total) for count, total in zip(wanted, offered, strict=True)]
    method.SetMetricSamplingPercentagePerLevel(shares, 1)
    method.SetInterpolator(sitk.sitkLinear)
    # A plain gradient descent stops early in the narrow valleys of an affine.
    method.SetOptimizerAsConjugateGradientLineSearch(
        learningRate=1,
        numberOfIterations=ITERATIONS,
        convergenceMinimumValue=1e-6,
        convergenceWindowSize=8,
        lineSearchMaximumIterations=5,
    )
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel(shrinks)
    method.SetSmoothingSigmasPerLevel([blur * spacing for blur in BLURS])
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


def _shrink(shape: Sequence[int], blur: int) -> int:
    """By how much a level that is smoothed with a sigma of `blur` voxels may be subsampled."""
    factor = max(1, 2 * blur)
    while factor > 1 and (
        min(shape) // factor < SMALLEST_AXIS or np.prod(shape) / factor ** len(shape) < SMALLEST_LEVEL
    ):
        factor //= 2
    return factor


def best(fixed: Scan, moving: Scan, candidates: Sequence[Array], tolerance: float = 0) -> Array:
    """The last of `candidates` whose similarity is within `tolerance` of the highest."""
    scores = [similarity(fixed, moving, candidate) for candidate in candidates]
    return [c for c, score in zip(candidates, scores, strict=True) if score >= max(scores) - tolerance][-1]


def refined(fixed: Scan, moving: Scan, start: Array, kind: str) -> Array:
    """What `optimise` finds, or `start` where that is better: mutual information alone may run away."""
    return best(fixed, moving, [start, optimise(fixed, moving, start, kind)], TOLERANCE)


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


def rigid(fixed: Scan, moving: Scan, *starts: Array) -> Array:
    """The rigid pull-back (4, 4) in plain coordinates: the best from `starts`, and from turned ones.

    Every turned start is scored in few voxels, which takes a fraction of one optimisation; only those that
    score higher than what was found are optimised, and a good alignment has none.
    """
    found = best(fixed, moving, [refined(fixed, moving, start, "rigid") for start in starts])
    few_fixed, few_moving = coarse(fixed), coarse(moving)
    turned = [shift(moving.mass) @ turn @ shift(-fixed.mass) for turn in turns(fixed.grid.ndim)]
    scores = np.array([similarity(few_fixed, few_moving, start) for start in turned])
    level = similarity(few_fixed, few_moving, found)
    better = [turned[i] for i in np.argsort(-scores)[:TRIED] if scores[i] > level]
    return best(fixed, moving, [found, *(refined(fixed, moving, start, "rigid") for start in better)])


def register(fixed: Scan, moving: Scan) -> Array:
    """The pull-back (4, 4) in plain coordinates: rigid from many starts, then affine from the best."""
    starts = [shift(moving.mass - fixed.mass), shift(moving.middle - fixed.middle)]
    return refined(fixed, moving, rigid(fixed, moving, *starts), "affine")


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
        raise AtlasmithError(f"{layout.affine_reference} is missing. Run `atlasmith affine-reference` first.")
    subject = subjects[subject_id]
    grid = Grid.from_dict(read_json(layout.grid))
    spacing = min(grid.tensor_spacing)
    with one_thread():
        image = read_prepared(subject.image, spacing, config.affine.n4)
        check_dimension(subject, image, grid)
        fixed = Scan.of(Image(read_image(layout.affine_reference).data, grid), spacing)
        moving = Scan.of(image, spacing)
        matrix = to_world(register(fixed, moving), fixed.grid, moving.grid)
        moved = resample(image, matrix, grid, fill=0)
    write_affine(layout.affine(subject_id), matrix)
    write_image(layout.affine_image(subject_id), moved, grid)
