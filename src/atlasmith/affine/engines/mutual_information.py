"""The engine for mixed contrasts: mutual information, by SimpleITK."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk

from atlasmith.affine.engines.base import AffineEngine
from atlasmith.affine.pyramid import pyramid
from atlasmith.affine.working_image import WorkingImage, itk_pull_back, padded
from atlasmith.core.grid import Array, Grid

Transform = sitk.Euler2DTransform | sitk.Euler3DTransform | sitk.AffineTransform


@AffineEngine.declare(
    "Mattes mutual information by conjugate gradients, in SimpleITK. For cohorts of mixed contrasts; several "
    "times slower."
)
def mutual_information(
    fixed: WorkingImage,
    moving: WorkingImage,
    starts: Sequence[Array],
    kind: str,
    bins: int = 32,
    iterations: int = 60,
) -> list[Array]:
    """Maximize mutual information, coarse to fine (Mattes et al. 2003, doi:10.1109/TMI.2003.809072).

    Args:
        fixed: The fixed image.
        moving: The moving image.
        starts: Pull-backs (4, 4) in physical coordinates.
        kind: `rigid` or `affine`.
        bins: Bins of the joint histogram along each axis.
        iterations: Iterations per level, at most.

    Returns:
        A pull-back (4, 4) for each start.
    """
    return [_optimize(fixed, moving, start, kind, bins, iterations) for start in starts]


def _optimize(
    fixed: WorkingImage, moving: WorkingImage, start: Array, kind: str, bins: int, iterations: int
) -> Array:
    """Find the pull-back (4, 4) from one start."""
    ndim = fixed.grid.ndim
    transform: Transform = sitk.AffineTransform(ndim)
    if kind == "rigid":
        transform = sitk.Euler2DTransform() if ndim == 2 else sitk.Euler3DTransform()
    transform.SetCenter(fixed.fov_center[:ndim].tolist())
    method = _method(fixed.grid, kind, bins, iterations)
    method.SetMovingInitialTransform(itk_pull_back(start, ndim))
    method.SetInitialTransform(transform, inPlace=True)
    try:
        method.Execute(padded(fixed.itk), padded(moving.itk))
    except RuntimeError:
        return start
    # The images of the origin and of the unit vectors.
    points = np.array([transform.TransformPoint(point) for point in np.eye(ndim + 1, ndim, -1).tolist()])
    found = np.eye(4)
    found[:ndim, :ndim] = (points[1:] - points[0]).T
    found[:ndim, 3] = points[0]
    return start @ found


def _method(grid: Grid, kind: str, bins: int, iterations: int) -> sitk.ImageRegistrationMethod:
    """Configure metric, optimizer and levels for a fixed image on `grid`."""
    sigmas, factors, samples = zip(*pyramid(grid, kind), strict=True)
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(bins)
    method.SetMetricSamplingStrategy(method.REGULAR)
    voxels = [float(np.prod(grid.tensor_shape)) / factor**grid.ndim for factor in factors]
    fractions = [min(1.0, count / total) for count, total in zip(samples, voxels, strict=True)]
    method.SetMetricSamplingPercentagePerLevel(fractions, 1)
    method.SetInterpolator(sitk.sitkLinear)
    # A plain gradient descent stops early in the narrow valleys of an affine.
    method.SetOptimizerAsConjugateGradientLineSearch(
        learningRate=1,
        numberOfIterations=iterations,
        convergenceMinimumValue=1e-6,
        convergenceWindowSize=8,
        lineSearchMaximumIterations=5,
    )
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel(factors)
    method.SetSmoothingSigmasPerLevel(sigmas)
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    return method
