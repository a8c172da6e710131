"""How alike two images are."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from scipy import ndimage
from scipy.special import entr

from atlasmith.core.grid import Array


def foreground(image: Array) -> Array:
    """The object: above a tenth of the way from the 1st to the 99th percentile, holes filled. 2-D or 3-D."""
    low, high = np.percentile(image, (1, 99))
    return ndimage.binary_fill_holes(image > low + 0.1 * (high - low))


def _scaled(values: Array) -> Array:
    """`values` with their 1st percentile at 0 and their 99th at 1; NaN where these are the same."""
    low, high = np.percentile(values, (1, 99))
    return (values.astype(np.float64) - low) / (high - low if high > low else np.nan)


def _is_constant(values: Array) -> bool:
    return values.size == 0 or bool(values.min() == values.max())


def ncc(fixed: Array, moved: Array) -> float:
    """Pearson's correlation of two images' values (N,); NaN if one is constant."""
    if _is_constant(fixed) or _is_constant(moved):
        return np.nan
    a, b = fixed - fixed.mean(dtype=np.float64), moved - moved.mean(dtype=np.float64)
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def nmse(fixed: Array, moved: Array) -> float:
    """Mean squared difference of two images' values (N,), each scaled by its 1st and 99th percentile."""
    return mse(_scaled(fixed), _scaled(moved))


def nmi(fixed: Array, moved: Array, bins: int = 32) -> float:
    """Normalized mutual information (H(a) + H(b)) / H(a, b), from 1 to 2, of two images' values (N,)
    (Studholme et al. 1999, doi:10.1016/S0031-3203(98)00091-0); NaN if one is constant."""
    a, b = _scaled(fixed), _scaled(moved)
    if np.isnan(a).any() or np.isnan(b).any():
        return np.nan
    joint, _, _ = np.histogram2d(a.clip(0, 1), b.clip(0, 1), bins=bins, range=((0, 1), (0, 1)))
    joint /= joint.sum()
    return float((entr(joint.sum(0)).sum() + entr(joint.sum(1)).sum()) / entr(joint).sum())


SIMILARITY: dict[str, Callable[[Array, Array], float]] = {"ncc": ncc, "nmse": nmse, "nmi": nmi}


# Of images in the same units. The functions above stand a change of scale and offset; these don't.


def mse(fixed: Array, moved: Array) -> float:
    """Mean squared difference of two images' values, of any one shape; NaN for none."""
    return float(np.mean((fixed.astype(np.float64) - moved) ** 2)) if fixed.size else np.nan


def mae(fixed: Array, moved: Array) -> float:
    """Mean absolute difference of two images' values, of any one shape; NaN for none."""
    return float(np.mean(np.abs(fixed.astype(np.float64) - moved))) if fixed.size else np.nan


def psnr_db(fixed: Array, moved: Array, data_range: float) -> float:
    """Peak signal-to-noise ratio 10 log10(data_range^2 / MSE) of two images' values, of any one shape.

    data_range: what the images' units can span, such as 1 or 255. Infinite for images that are the same.
    """
    with np.errstate(divide="ignore"):
        return float(10 * np.log10(data_range**2 / np.float64(mse(fixed, moved))))


def ssim(fixed: Array, moved: Array, data_range: float) -> float:
    """Mean structural similarity, -1 to 1, of two images (2-D or 3-D), where the whole window is inside.

    Wang et al. 2004, doi:10.1109/TIP.2003.819861, whose Gaussian window this is: 11 voxels an axis, SD 1.5.
    data_range: more than 0, as of `psnr_db`. NaN if an axis is shorter than the window.
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
