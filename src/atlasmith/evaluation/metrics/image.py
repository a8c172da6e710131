"""Metrics of the similarity of two images."""

from __future__ import annotations

from functools import partial

import numpy as np
from scipy import ndimage
from scipy.special import entr

from atlasmith.core.grid import Array


def _scaled(values: Array) -> Array:
    """`values` with their 1st percentile at 0 and their 99th at 1; NaN where these are the same."""
    low, high = np.percentile(values, (1, 99)) if values.size else (0, 0)
    return (values.astype(np.float64) - low) / (high - low if high > low else np.nan)


def _is_constant(values: Array) -> bool:
    return values.size == 0 or bool(values.min() == values.max())


def ncc(fixed: Array, moved: Array) -> float:
    """Compute Pearson's correlation of two images.

    Args:
        fixed: Intensities (N,).
        moved: Intensities (N,) at the same points.

    Returns:
        -1 to 1; NaN if one image is constant.

    Example:
        >>> ncc(np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0, 6.0]))
        1.0
    """
    if _is_constant(fixed) or _is_constant(moved):
        return np.nan
    a, b = fixed - fixed.mean(dtype=np.float64), moved - moved.mean(dtype=np.float64)
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def nmse(fixed: Array, moved: Array) -> float:
    """Compute the mean squared difference of two images, each scaled by its 1st and 99th percentile.

    Arguments as of `ncc`. 0 for equal images; NaN if one is constant.
    """
    return mse(_scaled(fixed), _scaled(moved))


def nmi(fixed: Array, moved: Array, bins: int = 32) -> float:
    """Compute the normalized mutual information (H(a) + H(b)) / H(a, b) of two images.

    Studholme et al. 1999, doi:10.1016/S0031-3203(98)00091-0.

    Args:
        fixed: Intensities (N,).
        moved: Intensities (N,) at the same points.
        bins: Bins of each axis of the joint histogram, from the 1st to the 99th percentile.

    Returns:
        1 to 2; NaN if one image is constant, or there is no point.
    """
    a, b = _scaled(fixed), _scaled(moved)
    if not a.size or np.isnan(a).any() or np.isnan(b).any():
        return np.nan
    joint, _, _ = np.histogram2d(a.clip(0, 1), b.clip(0, 1), bins=bins, range=((0, 1), (0, 1)))
    joint /= joint.sum()
    return float((entr(joint.sum(0)).sum() + entr(joint.sum(1)).sum()) / entr(joint).sum())


# Of images in the same units: a change of scale or offset alters these, but not the functions above.


def mse(fixed: Array, moved: Array) -> float:
    """Compute the mean squared difference of two images of any one shape; NaN for no voxel."""
    return float(np.mean((fixed.astype(np.float64) - moved) ** 2)) if fixed.size else np.nan


def mae(fixed: Array, moved: Array) -> float:
    """Compute the mean absolute difference of two images of any one shape; NaN for no voxel."""
    return float(np.mean(np.abs(fixed.astype(np.float64) - moved))) if fixed.size else np.nan


def psnr_db(fixed: Array, moved: Array, data_range: float) -> float:
    """Compute the peak signal-to-noise ratio 10 log10(data_range^2 / MSE).

    Args:
        fixed: An image of any shape.
        moved: An image of the same shape and in the same units.
        data_range: The range of possible intensities, such as 1 or 255.

    Returns:
        dB; infinite for equal images.
    """
    with np.errstate(divide="ignore"):
        return float(10 * np.log10(data_range**2 / np.float64(mse(fixed, moved))))


def ssim(fixed: Array, moved: Array, data_range: float) -> float:
    """Compute the mean structural similarity, over the voxels around which the whole window is inside.

    Wang et al. 2004, doi:10.1109/TIP.2003.819861, with its Gaussian window: 11 voxels an axis, SD 1.5.

    Args:
        fixed: (*shape), 2-D or 3-D.
        moved: (*shape), in the same units.
        data_range: As of `psnr_db`, above 0.

    Returns:
        -1 to 1; NaN if an axis is shorter than the window.
    """
    sigma, radius = 1.5, 5
    blur = partial(ndimage.gaussian_filter, sigma=sigma, radius=radius)
    a, b = fixed.astype(np.float64), moved.astype(np.float64)
    mean_a, mean_b = blur(a), blur(b)
    variance_a, variance_b = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2
    covariance = blur(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    similarity = ((2 * mean_a * mean_b + c1) * (2 * covariance + c2)) / (
        (mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2)
    )
    inside = similarity[(slice(radius, -radius),) * similarity.ndim]
    return float(inside.mean()) if inside.size else np.nan
