"""Images as the affine registration takes them, the space in which it takes place, and its similarity.

An affine is found in a grid's *physical* coordinates, the millimetres of its SimpleITK image: in 3-D the
world in LPS, in 2-D the plane of the slice. `physical_to_world` leads from there to the world in RAS.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from scipy.ndimage import map_coordinates

from atlasmith.core.grid import Array, Grid
from atlasmith.io.images import Image
from atlasmith.io.transforms import LPS, from_sitk, itk_affine, to_sitk

FULL_OVERLAP = 0.8  # fraction of the largest overlap from which the similarity isn't reduced
RECURSIVE_MINIMUM = 4  # voxels along each axis that ITK's recursive Gaussian takes
HIGHEST_SIMILARITY = 2.0
COMPARED = 2**15  # voxels of the fixed image at which the similarity is computed, at most
OBJECT_LEVEL = 0.1  # normalized intensity above which a voxel belongs to the object


def physical_to_world(grid: Grid) -> Array:
    """Return the matrix (4, 4) from physical coordinates of `grid` to the world, RAS mm.

    In 2-D the third physical coordinate counts voxels perpendicular to the slice.
    """
    if grid.ndim == 3:
        return LPS
    normal = next(axis for axis in range(3) if axis not in grid.axes)
    return grid.affine[:, [*grid.axes, normal, 3]] @ np.diag(
        [1 / size for size in grid.tensor_spacing] + [1, 1]
    )


def to_world(matrix: Array, fixed: Grid, moving: Grid) -> Array:
    """Convert a pull-back (4, 4) in physical coordinates to one in world coordinates, RAS mm."""
    return physical_to_world(moving) @ matrix @ np.linalg.inv(physical_to_world(fixed))


def translation(vector: Array) -> Array:
    """Return the matrix (4, 4) of the translation by `vector` (3,)."""
    matrix = np.eye(4)
    matrix[:3, 3] = vector
    return matrix


@dataclass(frozen=True, eq=False)
class WorkingImage:
    """An image in the voxels in which it is registered, with three points in physical coordinates.

    Attributes:
        itk: The voxels, in 2-D those of the slice.
        grid: Their grid.
        fov_center: Center (3,) of the field of view.
        center_of_mass: Center of mass (3,) of the intensities.
        box_center: Center (3,) of the object's bounding box.
    """

    itk: sitk.Image
    grid: Grid
    fov_center: Array
    center_of_mass: Array
    box_center: Array

    @classmethod
    def from_image(cls, image: Image, spacing: float) -> WorkingImage:
        """Resample an image to voxels of about `spacing` mm, or larger where its own are.

        Args:
            image: Normalized intensities, antialiased for `spacing`.
            spacing: Voxel size, mm.
        """
        grid = image.grid.resampled(spacing)
        data = image.data if grid.same_as(image.grid) else resample(image, np.eye(4), grid, fill=0)
        if grid.ndim == 3:
            itk = to_sitk(data, grid)
        else:
            itk = sitk.GetImageFromArray(np.ascontiguousarray(grid.squeeze(data).T))
            itk.SetSpacing(grid.tensor_spacing)
        middle = (np.array(grid.shape) - 1) / 2
        mass, box = middle.copy(), middle.copy()
        for axis in range(3):
            others = tuple(other for other in range(3) if other != axis)
            profile = data.sum(axis=others, dtype=np.float64)
            occupied = np.flatnonzero(data.max(axis=others) > OBJECT_LEVEL)
            if occupied.size:
                mass[axis] = profile @ np.arange(profile.size) / profile.sum()
                box[axis] = (occupied[0] + occupied[-1]) / 2
        to_physical = np.linalg.inv(physical_to_world(grid)) @ grid.affine
        return cls(itk, grid, *((to_physical @ np.append(point, 1))[:3] for point in (middle, mass, box)))


def resample(image: Image, matrix: Array, grid: Grid, fill: float = np.nan) -> Array:
    """Resample an image linearly through an affine.

    Args:
        image: The moving image.
        matrix: World pull-back (4, 4), RAS mm, from `grid` to the image.
        grid: The fixed grid.
        fill: Value outside the image's field of view.

    Returns:
        (X, Y, Z) on `grid`.
    """
    moved = sitk.Resample(
        to_sitk(image.data, image.grid),
        to_sitk(np.zeros(grid.shape, dtype=np.float32), grid),
        itk_affine(matrix),
        sitk.sitkLinear,
        fill,
    )
    return from_sitk(moved)


def smooth(image: sitk.Image, sigmas_mm: Sequence[float]) -> sitk.Image:
    """Smooth by a recursive Gaussian of one sigma for each axis, mm; outside are the outermost voxels."""
    result = sitk.SmoothingRecursiveGaussian(padded(image), sigmas_mm)
    return sitk.RegionOfInterest(result, image.GetSize()) if result.GetSize() != image.GetSize() else result


def padded(image: sitk.Image) -> sitk.Image:
    """Repeat the last voxels along an axis until a recursive Gaussian takes the image: a thin slab."""
    missing = [max(0, RECURSIVE_MINIMUM - size) for size in image.GetSize()]
    return sitk.ZeroFluxNeumannPad(image, [0] * len(missing), missing) if any(missing) else image


def similarity(fixed: WorkingImage, moving: WorkingImage, matrix: Array) -> float:
    """Compute 1 + NCC over the overlap of two images, see `similarities`."""
    return float(similarities(fixed, moving, [matrix])[0])


def similarities(fixed: WorkingImage, moving: WorkingImage, matrices: Sequence[Array]) -> Array:
    """Compute 1 + NCC over the overlap for each of several transforms, reduced where the overlap is small.

    The factor falls from 1 to 0 as the overlap falls from `FULL_OVERLAP` to 0, so that moving the image out
    of the field of view gains nothing. The overlap is the fraction of the fixed image's non-zero voxels that
    lie in the moving image's field of view, relative to `largest_overlap`.

    Args:
        fixed: The fixed image, of which `COMPARED` voxels are compared at most.
        moving: The moving image, interpolated linearly.
        matrices: N pull-backs (4, 4) in physical coordinates.

    Returns:
        (N,), from 0 to 2.
    """
    target, source = (sitk.GetArrayViewFromImage(image.itk).T for image in (fixed, moving))
    index = evenly_spread(target.shape, COMPARED)
    target = target[tuple(index)]
    occupied, size = target > 0, np.array(source.shape)[:, None]
    to_moving, from_fixed = np.linalg.inv(voxels_to_physical(moving.itk)), voxels_to_physical(fixed.itk)
    kept, largest, found = [*range(source.ndim), 3], largest_overlap(fixed, moving), []
    for matrix in matrices:
        affine = to_moving @ matrix[np.ix_(kept, kept)] @ from_fixed
        points = affine[:-1, :-1] @ index + affine[:-1, -1:]
        moved = map_coordinates(source, points, order=1, mode="nearest", prefilter=False)
        # As ITK has it: half a voxel around the outermost centers shows their values.
        inside: Array = np.all((points >= -0.5) & (points <= size - 0.5), axis=0) & np.isfinite(moved)
        a, b = target[inside].astype(np.float64), moved[inside].astype(np.float64)
        if not occupied.any() or a.size == 0 or a.std() == 0 or b.std() == 0:
            found.append(0.0)
            continue
        overlap = np.mean(inside[occupied]) / largest
        ncc = np.mean((a - a.mean()) * (b - b.mean())) / (a.std() * b.std())
        found.append(float((1 + ncc) * min(1, overlap / FULL_OVERLAP)))
    return np.array(found)


@functools.lru_cache(maxsize=16)  # of an image's levels, which are those of the next one
def evenly_spread(shape: tuple[int, ...], count: int) -> Array:
    """Choose voxels of a grid evenly along each axis and diagonal, `count` at most.

    The additive recurrence of the powers of a root of x^(d + 1) = x + 1 (Roberts 2018, "The unreasonable
    effectiveness of quasirandom sequences"). Every n-th voxel in memory would lie on few planes.

    Args:
        shape: Of the grid, 2-D or 3-D.
        count: Of voxels.

    Returns:
        Their indices (d, n) along each axis, in rising order in memory. They are kept, and can't be changed.

    Example:
        >>> evenly_spread((4, 6), 4)
        array([[0, 1, 2, 3],
               [1, 4, 0, 3]])
    """
    size = int(np.prod(shape))
    chosen = np.arange(size)
    if size > count:
        root = {2: 1.324717957244746, 3: 1.2207440846057596}[len(shape)]
        units = (np.arange(1, count + 1)[:, None] * root ** -np.arange(1.0, len(shape) + 1)) % 1
        chosen = np.unique(np.ravel_multi_index((units * shape).astype(int).T, shape))
    index = np.stack(np.unravel_index(chosen, shape))
    index.setflags(write=False)
    return index


def voxels_to_physical(image: sitk.Image) -> Array:
    """Return the matrix (d + 1, d + 1) from voxels to physical coordinates."""
    ndim = image.GetDimension()
    matrix = np.eye(ndim + 1)
    matrix[:ndim, :ndim] = np.array(image.GetDirection()).reshape(ndim, ndim) @ np.diag(image.GetSpacing())
    matrix[:ndim, ndim] = image.GetOrigin()
    return matrix


def largest_overlap(fixed: WorkingImage, moving: WorkingImage) -> float:
    """Return the fraction of the fixed image's non-zero voxels that fit in the moving field of view."""
    object_size = (sitk.GetArrayViewFromImage(fixed.itk) > 0).sum() * np.prod(fixed.itk.GetSpacing())
    fov_size = moving.itk.GetNumberOfPixels() * np.prod(moving.itk.GetSpacing())
    return float(min(1, fov_size / max(object_size, 1e-9)))


def itk_pull_back(matrix: Array, ndim: int) -> sitk.AffineTransform:
    """Convert a pull-back (4, 4) in physical coordinates to an ITK transform of `ndim` dimensions."""
    transform = sitk.AffineTransform(ndim)
    transform.SetMatrix(matrix[:ndim, :ndim].ravel().tolist())
    transform.SetTranslation(matrix[:ndim, 3].tolist())
    return transform
