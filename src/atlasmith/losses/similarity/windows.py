"""Similarities in windows: local correlation and structural similarity."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from atlasmith.core.choices import Positive
from atlasmith.losses.similarity.base import Similarity, average
from atlasmith.losses.similarity.filters import BoxWindows, GaussianWindows, box_mean, gaussian_mean
from atlasmith.losses.similarity.local_correlation import local_correlation

Mean = Callable[[Tensor, Sequence[int]], Tensor]


def _moments(fixed: Tensor, moved: Tensor, mean: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...]:
    """Means of both images, variances of both, and the covariance, in windows."""
    products = (fixed, moved, fixed * fixed, moved * moved, fixed * moved)
    mean_f, mean_m, ff, mm, fm = (mean(x) for x in products)
    variances = ((ff - mean_f * mean_f).clamp(min=0), (mm - mean_m * mean_m).clamp(min=0))
    return mean_f, mean_m, *variances, fm - mean_f * mean_m


def _widths(window: int, x: Tensor) -> list[int]:
    return [min(window, n) for n in x.shape[2:]]


@Similarity.declare("1 - mean squared correlation in windows. The default: one modality with bias fields.")
def lncc(
    fixed: Tensor,
    moved: Tensor,
    mask: Tensor | None = None,
    window: int = 9,
    compat: Literal["none", "voxelmorph", "monai"] = "none",
) -> Tensor:
    """Compute 1 - mean squared local correlation over the windows inside image and mask: 0 at best.

    cov^2 / (var f var m) in each window (Avants et al. 2008, doi:10.1016/j.media.2007.06.004). A window that
    is flat in one image counts as uncorrelated; one that is flat in both doesn't count, since otherwise the
    size of the background would set the weight of the regularizers. Axes shorter than the window use their
    whole length. Without any window that counts the value is 1.

    Args:
        window: Voxels of the window along each axis.
        compat: "voxelmorph" (also the survey's `NCC_vxm`) and "monai" (`LocalNormalizedCrossCorrelationLoss`)
            give the values of these: zero padding, an absolute epsilon of 1e-5, every window, and minus the
            correlation (-1 at best).

    Raises:
        ValueError: If there is a mask with `compat`.
    """
    if compat != "none":
        volume = float(window ** (fixed.ndim - 2))
        moments = _zero_padded(fixed, moved, mask, window, compat, box_mean)
        variance_f, variance_m, covariance = (volume * x for x in moments)
        eps = 1e-5
        if compat == "voxelmorph":
            return -average(covariance.square() / (variance_f * variance_m + eps))
        return -average(covariance.square() / (variance_f.clamp(min=eps) * variance_m.clamp(min=eps)))
    return 1 - local_correlation(fixed, moved, mask, BoxWindows(_widths(window, fixed)))


def _zero_padded(
    fixed: Tensor, moved: Tensor, mask: Tensor | None, window: int, compat: str, mean: Mean
) -> tuple[Tensor, ...]:
    """Variances of both images and their covariance, in windows around every voxel, with zero padding."""
    if mask is not None:
        raise ValueError(f"compat={compat!r} takes no mask")
    ndim = fixed.ndim - 2
    a, b = (F.pad(x, [window // 2] * (2 * ndim)) for x in (fixed, moved))
    return _moments(a, b, lambda x: mean(x, [window] * ndim))[2:]


@Similarity.declare("`lncc` with Gaussian weights. A smoother gradient than `lncc`, slower.")
def lncc_gaussian(
    fixed: Tensor,
    moved: Tensor,
    mask: Tensor | None = None,
    window: int = 9,
    sigma: Positive = 1.5,
    compat: Literal["none", "survey"] = "none",
) -> Tensor:
    """Compute `lncc` with Gaussian weights in the window (Cachier et al. 2003,
    doi:10.1016/S1077-3142(03)00002-X): a smoother function of the displacement than with a box.

    Args:
        window: Voxels of the window along each axis.
        sigma: Standard deviation of the weights, voxels.
        compat: "survey" gives the value of its `NCC_gauss`: zero padding, and 1e-5 added to numerator and
            denominator, so that a constant region counts as perfect.
    """
    if compat == "survey":
        mean = functools.partial(gaussian_mean, sigma=sigma)
        variance_f, variance_m, covariance = _zero_padded(fixed, moved, mask, window, compat, mean)
        return 1 - average((covariance.square() + 1e-5) / (variance_f * variance_m + 1e-5))
    return 1 - local_correlation(fixed, moved, mask, GaussianWindows(_widths(window, fixed), sigma=sigma))


@Similarity.declare("`lncc` in windows of a 16th, an 8th and a 4th of each axis. For large displacements.")
def lncc_multiscale(fixed: Tensor, moved: Tensor, mask: Tensor | None = None) -> Tensor:
    """Compute 0.1, 0.3 and 0.6 times `lncc` in windows of a 16th, 8th and 4th of each axis.

    The windows are dilated by 2 and stand a quarter of a window apart (Ding and Niethammer 2022,
    arXiv:2202.03563).
    """
    total = fixed.new_zeros(len(fixed))
    for fraction, weight in ((16, 0.1), (8, 0.3), (4, 0.6)):
        # At least two taps, since one has no variance; of an axis of one voxel there is only one.
        widths = [min(max(n // fraction, 2), (n + 1) // 2) for n in fixed.shape[2:]]
        windows = BoxWindows(widths, dilation=2, steps=[max(w // 4, 1) for w in widths])
        total = total + weight * (1 - local_correlation(fixed, moved, mask, windows))
    return total


@Similarity.declare("1 - structural similarity. For one contrast, close to perceived image quality.")
def ssim(
    fixed: Tensor,
    moved: Tensor,
    mask: Tensor | None = None,
    window: int = 11,
    sigma: Positive = 1.5,
    data_range: Positive = 1.0,
) -> Tensor:
    """Compute 1 - structural similarity over the windows inside image and mask: 0 at best.

    With K1 0.01 and K2 0.03 (Wang et al. 2004, doi:10.1109/TIP.2003.819861); equals scikit-image's with
    Gaussian weights and without sample covariance.

    Args:
        window: Voxels of the window along each axis.
        sigma: Standard deviation of the Gaussian weights, voxels.
        data_range: Range of the intensities.
    """
    widths = _widths(window, fixed)
    mean_f, mean_m, variance_f, variance_m, covariance = _moments(
        fixed, moved, lambda x: gaussian_mean(x, widths, sigma)
    )
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    luminance = (2 * mean_f * mean_m + c1) / (mean_f.square() + mean_m.square() + c1)
    structure = (2 * covariance + c2) / (variance_f + variance_m + c2)
    inside = None if mask is None else BoxWindows(widths).inside(mask > 0.5).to(fixed)
    return average(1 - luminance * structure, inside)
