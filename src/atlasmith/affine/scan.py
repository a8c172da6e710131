"""An image as the affine stage sees it, and how well a transform fits.

Registration takes place in a grid's *plain* coordinates, millimetres in which SimpleITK sees it: in 3-D its
own world (LPS), in 2-D the plane of the slice. `frame(grid)` is_main_process from there to the world.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from atlasmith.core.grid import Array, Grid
from atlasmith.io.images import Image
from atlasmith.io.transforms import LPS, from_sitk, itk_affine, to_sitk

SMALLEST_AXIS, SMALLEST_LEVEL = 16, 4000  # voxels that a level keeps; fewer can't fill a joint histogram
OVERLAP = 0.8  # of the largest possible; losing more of it counts against a transform
OBJECT = 0.1  # normalized intensity above which a voxel belongs to the object


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
    field of view, the center of mass, and the middle of the object's bounding box.
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
    transform = itk_pull_back(plain, fixed)
    resampled = sitk.Resample(moving.picture, fixed.picture, transform, sitk.sitkLinear, np.nan)
    moved, target = sitk.GetArrayFromImage(resampled), sitk.GetArrayFromImage(fixed.picture)
    inside, occupied = np.isfinite(moved), target > 0
    a, b = target[inside].astype(np.float64), moved[inside].astype(np.float64)
    if not occupied.any() or a.size == 0 or a.std() == 0 or b.std() == 0:
        return 0.0
    overlap = np.mean(inside[occupied]) / largest_overlap(fixed, moving)
    ncc = np.mean((a - a.mean()) * (b - b.mean())) / (a.std() * b.std())
    return float((1 + ncc) * min(1, overlap / OVERLAP))


def largest_overlap(fixed: Scan, moving: Scan) -> float:
    """The share of the fixed image's non-zero voxels that the moving image's field of view could hold."""
    wanted = (sitk.GetArrayViewFromImage(fixed.picture) > 0).sum() * np.prod(fixed.picture.GetSpacing())
    offered = moving.picture.GetNumberOfPixels() * np.prod(moving.picture.GetSpacing())
    return float(min(1, offered / max(wanted, 1e-9)))


def itk_pull_back(plain: Array, fixed: Scan) -> sitk.AffineTransform:
    """A pull-back in plain coordinates as SimpleITK wants it."""
    ndim = fixed.grid.ndim
    transform = sitk.AffineTransform(ndim)
    transform.SetMatrix(plain[:ndim, :ndim].ravel().tolist())
    transform.SetTranslation(plain[:ndim, 3].tolist())
    return transform


def shrinkage(shape: Sequence[int], blur: int) -> int:
    """By how much a level that is smoothed with a sigma of `blur` voxels may be subsampled."""
    factor = max(1, 2 * blur)
    while factor > 1 and (
        min(shape) // factor < SMALLEST_AXIS or np.prod(shape) / factor ** len(shape) < SMALLEST_LEVEL
    ):
        factor //= 2
    return factor
