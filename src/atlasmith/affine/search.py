"""Rigid and affine registration of one image to another from many starts, in physical coordinates.

See `working_image` for the coordinates and the similarity, and `engines` for what optimizes a transform.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from atlasmith.affine.engines import ENGINES, AffineEngine
from atlasmith.affine.working_image import (
    HIGHEST_SIMILARITY,
    WorkingImage,
    similarities,
    similarity,
    smooth,
    to_world,
    translation,
)
from atlasmith.core.errors import look_up
from atlasmith.core.grid import Array
from atlasmith.core.intensity import antialias, normalize
from atlasmith.io.images import Image, as_image

TOLERANCE = 0.03  # of the similarity: a later stage is dropped where it loses more
SEARCH_SIZE = 14  # voxels of each axis at which rotated starts are compared
ANGLES = (20, 40, 60)  # degrees, in both directions
TURNS = (90, 135, 180)  # degrees, as where a header is wrong
TURN_RESIDUAL = 0.6  # of what lacks to the highest similarity: a turn must leave less, or the header is right
OPTIMIZED_STARTS = 2  # rotated starts that are optimized, at most


@contextmanager
def one_thread() -> Iterator[None]:
    """Run ITK on one thread: it sums metrics in the order in which threads end, and equal inputs must give
    equal bytes."""
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)


def align(
    fixed: Image | Array,
    moving: Image | Array,
    spacing: float | Sequence[float] = 1.0,
    engine: str = "torch",
) -> Array:
    """Register an image to another by a rigid, then an affine transform, from many starts.

    Intensities are normalized first. The images may have any orientation and place; both are sampled at the
    smallest voxel size of the fixed one.

    Args:
        fixed: The image onto whose grid the other is to be resampled, 2-D or 3-D; an array (*shape) lies in
            the world with its first voxel at the origin.
        moving: The other image, of as many dimensions.
        spacing: Voxel size of arrays, mm: one for all axes, or one for each.
        engine: Name of an entry of ENGINES: `torch` for one contrast, `simpleitk` for mixed contrasts.

    Returns:
        The pull-back (4, 4), RAS mm, from the world of the fixed image to that of the moving one.

    Raises:
        AtlasmithError: For an unknown engine, and images without contrast or with voxels that aren't finite.
        ValueError: When one image is 2-D and the other 3-D.

    Example:
        >>> x, y = np.indices((32, 32))
        >>> fixed, moving = (np.exp(-((x - a) ** 2 + (y - 15) ** 2 / 2) / 30) for a in (14, 17))
        >>> align(fixed, moving)[:2, 3].round(1) + 0.0
        array([3., 0.])
    """
    fixed, moving = as_image(fixed, spacing), as_image(moving, spacing)
    if fixed.grid.ndim != moving.grid.ndim:
        raise ValueError(f"a {fixed.grid.ndim}-D and a {moving.grid.ndim}-D image can't be registered")
    size = min(fixed.grid.tensor_spacing)
    target, source = (
        WorkingImage.from_image(Image(antialias(normalize(x.data), x.grid, size), x.grid), size)
        for x in (fixed, moving)
    )
    with one_thread():
        return register_affine(target, source, look_up(ENGINES, engine, "affine engine"))


def register_affine(fixed: WorkingImage, moving: WorkingImage, engine: AffineEngine) -> Array:
    """Find the world pull-back (4, 4), RAS mm: rigid from many starts, then affine from the best.

    Args:
        fixed: The fixed image.
        moving: The moving image.
        engine: An entry of ENGINES.
    """
    starts = [
        translation(moving.center_of_mass - fixed.center_of_mass),
        translation(moving.fov_center - fixed.fov_center),
    ]
    rigid = register_rigid(fixed, moving, starts, engine)
    matrix = optimize_starts(fixed, moving, [rigid], engine, "affine")
    return to_world(matrix, fixed.grid, moving.grid)


def register_rigid(
    fixed: WorkingImage, moving: WorkingImage, starts: Sequence[Array], engine: AffineEngine
) -> Array:
    """Find the rigid pull-back (4, 4) in physical coordinates, from `starts` and from rotated starts.

    The similarity of every rotated start is computed in few voxels, in a fraction of the time of one
    optimization. Only those above the result from `starts` are optimized; after a good alignment there are
    none. Starts by `TURNS` must end clearly better, since an object that is nearly symmetric matches turned,
    too.
    """
    found = optimize_starts(fixed, moving, starts, engine, "rigid")
    coarse_fixed, coarse_moving = _downsample(fixed), _downsample(moving)
    for angles, residual in ((ANGLES, 1.0), (TURNS, TURN_RESIDUAL)):
        rotated = [
            translation(moving.center_of_mass) @ rotation @ translation(-fixed.center_of_mass)
            for rotation in rotations(fixed.grid.ndim, angles)
        ]
        scores = similarities(coarse_fixed, coarse_moving, rotated)
        level = similarity(coarse_fixed, coarse_moving, found)
        better = [rotated[i] for i in np.argsort(-scores)[:OPTIMIZED_STARTS] if scores[i] > level]
        if better:
            other = optimize_starts(fixed, moving, better, engine, "rigid")
            lacking = HIGHEST_SIMILARITY - similarities(fixed, moving, [found, other])
            found = other if lacking[1] <= residual * lacking[0] else found
    return found


def optimize_starts(
    fixed: WorkingImage, moving: WorkingImage, starts: Sequence[Array], engine: AffineEngine, kind: str
) -> Array:
    """Optimize each of `starts` and select the best result, or a start where an engine diverged."""
    ends = engine(fixed, moving, starts, kind)
    before, after = np.split(similarities(fixed, moving, [*starts, *ends]), 2)
    kept = after >= before - TOLERANCE
    best = int(np.argmax(np.where(kept, after, before)))
    return ends[best] if kept[best] else starts[best]


def rotations(ndim: int, angles: Sequence[int]) -> list[Array]:
    """Return rotations (4, 4) by angles, degrees, about a cube's axes, edges and corners, or in the plane."""
    if ndim == 2:
        axes = [np.array([0, 0, 1])]
    else:
        # One of each pair of opposite directions: the first component that isn't zero is positive.
        directions = [np.array(d) for d in itertools.product((0, 1, -1), repeat=3) if any(d)]
        axes = [d for d in directions if d[np.flatnonzero(d)[0]] > 0]
    result = []
    for axis, degrees, sign in itertools.product(axes, angles, (1, -1)):
        if degrees == 180 and sign < 0:
            continue
        matrix = np.eye(4)
        vector = sign * np.deg2rad(degrees) * axis / np.linalg.norm(axis)
        matrix[:3, :3] = Rotation.from_rotvec(vector).as_matrix()
        result.append(matrix)
    return result


def _downsample(image: WorkingImage) -> WorkingImage:
    """Reduce an image to about `SEARCH_SIZE` voxels an axis."""
    factors = [max(1, n // SEARCH_SIZE) for n in image.itk.GetSize()]
    spacing = image.itk.GetSpacing()
    # Smoother than the voxels require, so that a start needn't be close.
    sigmas = [factor / 2 * size for factor, size in zip(factors, spacing, strict=True)]
    coarse = smooth(image.itk, sigmas) if max(factors) > 1 else image.itk
    return replace(image, itk=sitk.Shrink(coarse, factors))
