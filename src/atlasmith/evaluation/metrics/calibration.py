"""Metrics of the calibration of probabilities, and of how well uncertainty predicts errors."""

from __future__ import annotations

import numpy as np
import scipy

from atlasmith.core.grid import Array
from atlasmith.evaluation.metrics.image import ncc

BINS = 15  # as Guo et al. 2017


def _reliability(probabilities: Array, labels: Array, bins: int) -> tuple[Array, Array]:
    """|accuracy - mean confidence| and fraction of the voxels, both (B,), of each bin that isn't empty."""
    confidence = probabilities.max(axis=0)
    right = probabilities.argmax(axis=0) == labels
    index = (np.ceil(confidence * bins).astype(int) - 1).clip(0, bins - 1)
    size = np.bincount(index)
    gap = np.abs(np.bincount(index, weights=right - confidence.astype(np.float64)))
    known = size > 0
    return gap[known] / size[known], size[known] / labels.size


def ece(probabilities: Array, labels: Array, bins: int = BINS) -> float:
    """Compute the expected calibration error: the mean |accuracy - confidence|, over voxels in bins.

    Guo et al. 2017, arXiv:1706.04599.

    Args:
        probabilities: (C, N), summing to 1 over the C classes. The highest is the confidence.
        labels: True classes (N,), 0 to C - 1.
        bins: Bins of confidence, of equal width.

    Returns:
        0 to 1; NaN for no voxel.
    """
    gap, fraction = _reliability(probabilities, labels, bins)
    return float(gap @ fraction) if gap.size else np.nan


def mce(probabilities: Array, labels: Array, bins: int = BINS) -> float:
    """Compute the maximum calibration error: the largest |accuracy - confidence| of a bin; else as `ece`."""
    gap, _ = _reliability(probabilities, labels, bins)
    return float(gap.max()) if gap.size else np.nan


def brier(probabilities: Array, labels: Array) -> float:
    """Compute the mean squared distance of probabilities from one-hot labels.

    Brier 1950, doi:10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2.

    Args:
        probabilities: (C, N), summing to 1 over the C classes.
        labels: True classes (N,), 0 to C - 1.

    Returns:
        0 to 2; NaN for no voxel.
    """
    if labels.size == 0:
        return np.nan
    of_truth = np.take_along_axis(probabilities, labels[None], axis=0)[0].astype(np.float64)
    squares = np.square(probabilities, dtype=np.float64).sum(axis=0)
    return float(np.mean(squares - 2 * of_truth + 1))


def nll(probabilities: Array, labels: Array, floor: float = 1e-7) -> float:
    """Compute the negative log-likelihood: the mean of -log of the true label's probability.

    Args:
        probabilities: (C, N), summing to 1 over the C classes.
        labels: True classes (N,), 0 to C - 1.
        floor: Lower bound of probabilities. Fractions of atlases are often 0, and one infinite voxel would
            hide all others.

    Returns:
        Nats; NaN for no voxel.
    """
    if labels.size == 0:
        return np.nan
    of_truth = np.take_along_axis(probabilities, labels[None], axis=0).astype(np.float64)
    return float(-np.log(of_truth.clip(min=floor)).mean())


def spearman(uncertainty: Array, error: Array) -> float:
    """Compute Spearman's rank correlation.

    Args:
        uncertainty: (N,), of any scale.
        error: (N,).

    Returns:
        -1 to 1; NaN if one is constant.
    """
    return ncc(scipy.stats.rankdata(uncertainty), scipy.stats.rankdata(error))


def ause(uncertainty: Array, error: Array) -> float:
    """Compute the area under the sparsification error curve.

    Sparsification removes voxels in the order of falling uncertainty; the curve is the mean error of those
    left, by the fraction removed. The area is that between this curve and the one in the order of falling
    error, in units of the mean error of all. Ilg et al. 2018, doi:10.1007/978-3-030-01234-2_40.

    Args:
        uncertainty: (N,), of any scale.
        error: (N,), 0 or more.

    Returns:
        0 where uncertainty ranks as error does; NaN without error.
    """
    if not error.any():
        return np.nan

    def mean_error_left(order: Array) -> Array:
        # Voxels of equal uncertainty have no order, so each counts as their mean.
        _, group, size = np.unique(order, return_inverse=True, return_counts=True)
        ordered = np.repeat(np.bincount(group, weights=error) / size, size)
        return ordered.cumsum() / np.arange(1, error.size + 1)

    return float(
        np.mean(mean_error_left(uncertainty) - mean_error_left(error)) / error.mean(dtype=np.float64)
    )
