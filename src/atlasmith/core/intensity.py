"""Intensities on one scale, whatever the scanner's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from atlasmith.core.grid import Array, Grid

FWHM = np.sqrt(8 * np.log(2))  # full width at half maximum of a Gaussian of sigma 1
BACKGROUND_SHARE = 10  # % of the voxels that a uniform background has at least
OUTLIER_SHARE = 1  # % of the voxels that may be darker than it
AIR = -500.0  # Hounsfield units; no MR or nuclear image is so far below zero
FLAT_CONTRAST = 1e-6  # of the largest intensity: by less, float32 can't tell intensities apart
NOISE_SHARE = 1e-3  # of the contrast: intensities that differ by less are equal


def find_background(data: Array) -> tuple[float, float] | None:
    """Find a uniform background: a stripped skull's, or padding.

    An image has one if more than a tenth of its voxels have the same, lowest intensity. Intensities are equal
    within a thousandth of the contrast, the energy-weighted mean of what exceeds the lowest ones, and a
    hundredth of the voxels may be darker: interpolation leaves neither exact zeros nor an exact minimum.

    Args:
        data: Intensities of any shape.

    Returns:
        The background's intensity, and that above which a voxel is foreground; None for an image without
        background (a crop), in which the lowest intensities are dark tissue.

    Example:
        >>> find_background(np.repeat([0.0, 5.0], 50))
        (0.0, 0.005)
    """
    darkest, level, brightest = np.percentile(
        data, [OUTLIER_SHARE, (OUTLIER_SHARE + BACKGROUND_SHARE) / 2, BACKGROUND_SHARE]
    )
    above = data[data > level].astype(np.float64) - level
    tolerance = NOISE_SHARE * float(np.square(above).sum() / above.sum()) if above.size else 0.0
    if brightest - darkest > tolerance:
        return None
    return float(level), float(level + tolerance)


def foreground(image: Array) -> Array:
    """Segment the object from the background: where an image exceeds a threshold, with holes filled.

    Args:
        image: (*shape), 2-D or 3-D.

    Returns:
        A boolean mask (*shape); the threshold lies at 10 % between the 1st and the 99th percentile.
    """
    low, high = np.percentile(image, (1, 99))
    return ndimage.binary_fill_holes(image > low + 0.1 * (high - low))


def normalize(data: Array, window: Sequence[float] | None = None, ignore: Array | None = None) -> Array:
    """Scale intensities to [0, 1], robustly.

    Without a window: from the background to the foreground's 99.5th percentile where the image has a
    background, else (a crop) from its 1st to its 99th percentile. Values beyond are clipped.

    Args:
        data: Intensities of any shape, in the scanner's units.
        window: The intensities that become 0 and 1; None takes them from the image.
        ignore: Boolean of the same shape, voxels that have no part in this; not all of them.

    Returns:
        float32 of the same shape; zeros where there is no contrast.

    Example:
        >>> normalize(np.array([-1000.0, 0.0, 40.0, 3000.0]), window=(-160, 240))
        array([0. , 0.4, 0.5, 1. ], dtype=float32)
    """
    known = data if ignore is None else data[~ignore]
    if window is not None:
        low, high = window
    elif (background := find_background(known)) is not None:
        low, threshold = background
        foreground = known[known > threshold]
        high = float(np.percentile(foreground, 99.5)) if foreground.size else low
    else:
        low, high = (float(value) for value in np.percentile(known, [1, 99]))
    if high <= low:
        return np.zeros(data.shape, dtype=np.float32)
    return np.clip((data.astype(np.float32) - low) / (high - low), 0, 1).astype(np.float32)


def is_constant(data: Array) -> bool:
    """Return whether intensities of any shape are the same, within what float32 can tell apart.

    Example:
        >>> is_constant(np.array([1000.0, 1000.0001])), is_constant(np.array([0.0, 1e-4]))
        (True, False)
    """
    low, high = float(data.min()), float(data.max())
    return high - low <= FLAT_CONTRAST * max(abs(low), abs(high))


def apply_mask(data: Array, mask: Array) -> Array:
    """Give the voxels outside a mask the lowest intensity inside, so that they are background.

    Args:
        data: Intensities of any shape.
        mask: Boolean of the same shape, not empty.

    Example:
        >>> apply_mask(np.array([7.0, 2.0, 5.0]), np.array([False, True, True]))
        array([2., 2., 5.])
    """
    masked: Array = np.where(mask, data, data[mask].min())
    return masked


def looks_like_hounsfield(data: Array) -> bool:
    """Tell whether intensities seem to be Hounsfield units, in which air is near -1000.

    Their range is that of air and bone, so that soft tissue needs a window.
    """
    return bool(np.percentile(data, 1) < AIR)


def antialiasing_sigma(old: Array, new: float) -> Array:
    """Compute the Gaussian that sampling on a coarser grid needs first.

    Its FWHM is the root of the difference of the squared spacings (Cardoso et al. 2015,
    doi:10.1007/978-3-319-24571-3_81).

    Args:
        old: Spacing of the given grid along each axis (d).
        new: Spacing of the coarser grid, in the same unit; where it is no larger there is no smoothing.

    Returns:
        Standard deviations (d), voxels of the given grid.
    """
    sigma: Array = np.sqrt(np.maximum(new**2 - old**2, 0)) / FWHM / old
    return sigma


def antialias(data: Array, grid: Grid, spacing: float) -> Array:
    """Smooth (X, Y, Z) on `grid` as sampling it every `spacing` mm needs: see `antialiasing_sigma`."""
    sigma = antialiasing_sigma(np.array(grid.spacing), spacing)
    sigma[[axis not in grid.axes for axis in range(3)]] = 0
    if not sigma.any():
        return data
    smooth: Array = ndimage.gaussian_filter(data, sigma, mode="nearest")
    return smooth
