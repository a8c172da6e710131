"""Intensities on one scale, whatever the scanner's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from atlasmith.core.grid import Array, Grid

FWHM = np.sqrt(8 * np.log(2))  # full width at half maximum of a Gaussian of sigma 1
BACKGROUND_SHARE = 0.1  # more voxels than this at the image's minimum are background


def has_background(data: Array) -> bool:
    """Whether the minimum is a background (a stripped skull, padding) and not merely the darkest tissue."""
    return bool(np.mean(data == data.min()) > BACKGROUND_SHARE)


def normalize(data: Array, window: Sequence[float] | None = None) -> Array:
    """Scale intensities to [0, 1], robustly.

    Without a window: from the background to the foreground's 99.5th percentile where the image has a
    background, else (a crop) from its 1st to its 99th percentile. Values beyond are clipped.

    Args:
        data: Intensities of any shape, in the scanner's units.
        window: The intensities that become 0 and 1; None takes them from the image.

    Returns:
        float32 of the same shape; zeros where all intensities are equal.
    """
    low = float(data.min())
    if window is not None:
        low, high = window
    elif has_background(data):
        foreground = data[data > low]
        high = float(np.percentile(foreground, 99.5)) if foreground.size else low
    else:
        low, high = (float(value) for value in np.percentile(data, [1, 99]))
    if high <= low:
        return np.zeros(data.shape, dtype=np.float32)
    return np.clip((data.astype(np.float32) - low) / (high - low), 0, 1).astype(np.float32)


def antialias(data: Array, grid: Grid, spacing: float) -> Array:
    """Smooth (X, Y, Z) on `grid` as sampling it every `spacing` mm needs; finer sampling needs nothing.

    The Gaussian's FWHM is the root of the difference of the squared spacings (Cardoso et al. 2015,
    doi:10.1007/978-3-319-24571-3_81).
    """
    old = np.array(grid.spacing)
    sigma = np.sqrt(np.maximum(spacing**2 - old**2, 0)) / FWHM / old
    sigma[[axis not in grid.axes for axis in range(3)]] = 0
    if not sigma.any():
        return data
    smooth: Array = ndimage.gaussian_filter(data, sigma, mode="nearest")
    return smooth
