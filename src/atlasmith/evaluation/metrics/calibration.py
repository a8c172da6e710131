"""How far probabilities can be believed, and how far uncertainty tells of errors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy

from atlasmith.core.grid import Array
from atlasmith.evaluation.metrics.image import ncc

BINS = 15  # as Guo et al. 2017


def _reliability(probabilities: Array, labels: Array, bins: int) -> tuple[Array, Array]:
    """|accuracy - mean confidence| and share of the voxels, both (B,), of each bin that isn't empty."""
    confidence = probabilities.max(axis=0)
    right = probabilities.argmax(axis=0) == labels
    index = (np.ceil(confidence * bins).astype(int) - 1).clip(0, bins - 1)
    size = np.bincount(index)
    gap = np.abs(np.bincount(index, weights=right - confidence.astype(np.float64)))
    known = size > 0
    return gap[known] / size[known], size[known] / labels.size


def ece(probabilities: Array, labels: Array, bins: int = BINS) -> float:
    """Expected calibration error: the mean |accuracy - confidence| of bins, weighted by their voxels.

    probabilities: (C, N), summing to 1. labels: (N,), 0 to C - 1. The confidence is the highest probability,
    in bins of equal width. Guo et al. 2017, arXiv:1706.04599. NaN for no voxel.
    """
    gap, share = _reliability(probabilities, labels, bins)
    return float(gap @ share) if gap.size else np.nan


def mce(probabilities: Array, labels: Array, bins: int = BINS) -> float:
    """Maximum calibration error: the greatest |accuracy - confidence| of a bin; otherwise as `ece`."""
    gap, _ = _reliability(probabilities, labels, bins)
    return float(gap.max()) if gap.size else np.nan


def brier(probabilities: Array, labels: Array) -> float:
    """The mean squared distance, 0 to 2, of probabilities (C, N) from one-hot labels (N,); NaN for no voxel.

    Brier 1950, doi:10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2.
    """
    if labels.size == 0:
        return np.nan
    of_truth = np.take_along_axis(probabilities, labels[None], axis=0)[0].astype(np.float64)
    squares = np.square(probabilities, dtype=np.float64).sum(axis=0)
    return float(np.mean(squares - 2 * of_truth + 1))


def nll(probabilities: Array, labels: Array, floor: float = 1e-7) -> float:
    """The mean of -log of the true label's probability, in nats; otherwise as `brier`.

    floor: what lower probabilities count as. Shares of votes are often 0, and one infinite voxel would hide
    all others.
    """
    if labels.size == 0:
        return np.nan
    of_truth = np.take_along_axis(probabilities, labels[None], axis=0).astype(np.float64)
    return float(-np.log(of_truth.clip(min=floor)).mean())


# Uncertainty (N,), of any scale, against error (N,), 0 or more


def spearman(uncertainty: Array, error: Array) -> float:
    """Spearman's rank correlation of values (N,); NaN if one is constant."""
    return ncc(scipy.stats.rankdata(uncertainty), scipy.stats.rankdata(error))


def ause(uncertainty: Array, error: Array) -> float:
    """How much error is left when the most uncertain voxels go first, not the most wrong: 0 is best.

    The area between both curves of the mean error of the voxels left, by share of voxels gone, with the mean
    error of all as unit. Ilg et al. 2018, doi:10.1007/978-3-030-01234-2_40. NaN without error.
    """
    if not error.any():
        return np.nan

    def left(order: Array) -> Array:
        # Voxels of equal order leave in no order, so each counts as their mean.
        _, group, size = np.unique(order, return_inverse=True, return_counts=True)
        ordered = np.repeat(np.bincount(group, weights=error) / size, size)
        return ordered.cumsum() / np.arange(1, error.size + 1)

    return float(np.mean(left(uncertainty) - left(error)) / error.mean(dtype=np.float64))


UNCERTAINTY: dict[str, Callable[[Array, Array], float]] = {
    "pearson": ncc,
    "spearman": spearman,
    "ause": ause,
}
