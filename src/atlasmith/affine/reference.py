"""The unbiased groupwise affine reference: the mean of images that are registered to their own mean."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import numpy as np
from scipy.linalg import expm, logm, polar

from atlasmith.affine.engines import AffineEngine
from atlasmith.affine.search import one_thread, optimize_starts, register_rigid
from atlasmith.affine.working_image import WorkingImage, resample, to_world, translation
from atlasmith.core.grid import Array, Grid
from atlasmith.core.progress import Progress
from atlasmith.io.images import Image

T = TypeVar("T")

TURNED = 75.0  # degrees, from which on a header is wrong, rather than a head tilted


def choose(ids: Sequence[str], count: int) -> list[str]:
    """Choose at most `count` ids by their hashes.

    Other rows of a cohort, or another order of them, change the choice as little as possible.

    Args:
        ids: Participant ids.
        count: How many to choose.

    Returns:
        The chosen ids, sorted.
    """
    return sorted(sorted(ids, key=lambda name: hashlib.sha256(name.encode()).digest())[:count])


def center_matrices(matrices: Sequence[Array]) -> list[Array]:
    """Multiply matrices by one common matrix such that their log-Euclidean mean is the identity.

    The mean is that of Arsigny et al. 2006, doi:10.1007/11866565_113; iterated, as matrices don't commute.
    Matrices that turn by `TURNED` or more don't count, unless all do: an image whose header is wrong by half
    a turn would tilt the mean.

    Args:
        matrices: Each (4, 4).

    Returns:
        Each matrix times the common one, which stands on its right.
    """
    matrices = list(matrices)
    counted = [k for k, matrix in enumerate(matrices) if _turn(matrix) < TURNED] or range(len(matrices))
    for _ in range(20):
        mean = np.mean([np.real(logm(matrices[k])) for k in counted], axis=0)
        matrices = [matrix @ expm(-mean) for matrix in matrices]
        if np.abs(mean).max() < 1e-12:
            break
    return matrices


def _turn(matrix: Array) -> float:
    """The angle, degrees, of the rotation that is nearest to a matrix (4, 4)."""
    rotation = polar(matrix[:3, :3])[0]
    return float(np.degrees(np.arccos(np.clip((np.trace(rotation) - 1) / 2, -1, 1))))


def average(images: Iterable[Array]) -> Array:
    """Average images of one shape voxelwise, without their NaN; zero where all are NaN."""
    total: Array | float = 0.0
    count: Array | float = 0.0
    for image in images:
        inside = np.isfinite(image)
        total = total + np.where(inside, image, 0).astype(np.float64)
        count = count + inside
    return np.asarray(total / np.maximum(count, 1), dtype=np.float32)


def groupwise_reference(
    images: Sequence[Image], grid: Grid, engine: AffineEngine, iterations: int, threads: int = 1
) -> tuple[Array, list[Array]]:
    """Average images that are registered, rigidly and then affinely, to their own average.

    The images are first superposed by their centers of mass, then registered to their mean `iterations`
    times, rigidly in the first round. After each round one common affine makes the mean transform, about the
    centers of mass, the identity, so that neither pose nor size drifts to that of any image. Each image is
    interpolated once. The result depends neither on the order of the images nor on the number of threads.

    Args:
        images: Normalized intensities, antialiased for the voxel size of `grid`.
        grid: The grid of the reference.
        engine: An entry of ENGINES.
        iterations: Rounds of registration and averaging.
        threads: Images that are registered at a time.

    Returns:
        The average (X, Y, Z) on `grid`, and for each image the world pull-back (4, 4), RAS mm, by which it
        takes part.
    """
    spacing = min(grid.tensor_spacing)
    with (
        one_thread(),
        ThreadPoolExecutor(threads) as pool,
        Progress("affine reference", 2 * len(images) * (iterations + 1)) as progress,
    ):

        def each(function: Callable[..., T], *items: Iterable[Any]) -> Iterator[T]:
            """Yield the results in the order of the items."""
            for result in pool.map(function, *items):
                progress.update()
                yield result

        def superpose(deviations: Sequence[Array]) -> tuple[Image, list[Array]]:
            """Return the mean image, and the pull-backs (4, 4) in physical coordinates."""
            pairs = list(zip(moving, deviations, strict=True))
            found = [translation(x.center_of_mass) @ d @ translation(-center) for x, d in pairs]
            world = [to_world(matrix, grid, x.grid) for matrix, x in zip(found, moving, strict=True)]
            moved = each(lambda image, matrix: resample(image, matrix, grid), images, world)
            return Image(average(moved), grid), found

        moving = list(each(partial(WorkingImage.from_image, spacing=spacing), images))
        # The centers of mass meet where the objects' bounding boxes are in the middle of the grid.
        blank = WorkingImage.from_image(Image(np.zeros(grid.shape, dtype=np.float32), grid), spacing)
        offsets = [image.center_of_mass - image.box_center for image in moving]
        center = blank.fov_center + np.median(offsets, axis=0)
        mean, matrices = superpose([np.eye(4)] * len(moving))
        for iteration in range(iterations):
            fixed = WorkingImage.from_image(mean, spacing)
            register = partial(optimize_starts, kind="affine") if iteration else register_rigid
            starts = [[matrix] for matrix in matrices]
            matrices = list(each(partial(register, fixed, engine=engine), moving, starts))
            deviations = [
                translation(-image.center_of_mass) @ matrix @ translation(center)
                for image, matrix in zip(moving, matrices, strict=True)
            ]
            mean, matrices = superpose(center_matrices(deviations))
    return mean.data, [to_world(matrix, grid, x.grid) for matrix, x in zip(matrices, moving, strict=True)]
