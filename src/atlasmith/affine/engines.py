"""What optimizes an affine from a start: SimpleITK by mutual information, or torch by correlation.

An engine takes two scans, pull-backs (4, 4) in plain coordinates to start from, and `rigid` or `affine`; it
gives as many pull-backs, each relative to its start, and the start itself where it fails.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import SimpleITK as sitk

from atlasmith.affine.scan import Scan, itk_pull_back, shrinkage
from atlasmith.core.grid import Array

BLURS = (2, 1, 0)  # levels: sigma of the smoothing, voxels
SAMPLES = 20_000  # of the metric, at each level
BINS = 32
ITERATIONS = 60  # at most, at each level

Engine = Callable[[Scan, Scan, Sequence[Array], str], list[Array]]


def simpleitk(fixed: Scan, moving: Scan, starts: Sequence[Array], kind: str) -> list[Array]:
    """By Mattes mutual information (Mattes et al. 2003, doi:10.1109/TMI.2003.809072), coarse to fine."""
    return [_simpleitk(fixed, moving, start, kind) for start in starts]


def _simpleitk(fixed: Scan, moving: Scan, start: Array, kind: str) -> Array:
    ndim = fixed.grid.ndim
    transform: sitk.Euler2DTransform | sitk.Euler3DTransform | sitk.AffineTransform
    if kind == "affine":
        transform = sitk.AffineTransform(ndim)
    else:
        transform = sitk.Euler2DTransform() if ndim == 2 else sitk.Euler3DTransform()
    transform.SetCenter(fixed.middle[:ndim].tolist())
    shape, spacing = fixed.grid.tensor_shape, min(fixed.grid.tensor_spacing)
    shrinks = [shrinkage(shape, blur) for blur in BLURS]

    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(BINS)
    method.SetMetricSamplingStrategy(method.REGULAR)
    wanted = [_samples(kind, blur) for blur in BLURS]
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
    method.SetMovingInitialTransform(itk_pull_back(start, fixed))
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


def _samples(kind: str, blur: int) -> int:
    """A quarter for the rigid stage and the smoothed levels, which are starts only."""
    return SAMPLES if kind == "affine" and blur == 0 else SAMPLES // 4


def gauss_newton(fixed: Scan, moving: Scan, starts: Sequence[Array], kind: str) -> list[Array]:
    """By normalized cross-correlation, coarse to fine, all starts at once: see `atlasmith.affine.newton`."""
    from atlasmith.affine import newton

    levels = [(blur, _samples(kind, blur)) for blur in BLURS]
    return newton.optimize(fixed, moving, starts, kind, levels)


ENGINES: dict[str, Engine] = {"simpleitk": simpleitk, "torch": gauss_newton}
