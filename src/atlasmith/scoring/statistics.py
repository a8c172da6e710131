"""What can be said of a score over subjects."""

from __future__ import annotations

import numpy as np
from scipy import stats

from atlasmith.geometry import Array


def bootstrap_interval(values: Array, seed: int, resamples: int) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean of `values` (N,), NaN skipped; NaN for fewer than two.

    Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13.
    """
    values = values[~np.isnan(values)]
    if len(values) < 2:
        return np.nan, np.nan
    drawn = np.random.default_rng(seed).integers(len(values), size=(resamples, len(values)))
    low, high = np.percentile(values[drawn].mean(axis=1), (2.5, 97.5))
    return float(low), float(high)


def summary(values: Array, seed: int, resamples: int) -> dict[str, float | int]:
    """Mean, SD (of a sample), median, number and 95 % interval of the mean of `values` (N,), NaN skipped."""
    known = values[~np.isnan(values)]
    low, high = bootstrap_interval(known, seed, resamples)
    return {
        "mean": float(known.mean()) if len(known) else np.nan,
        "sd": float(known.std(ddof=1)) if len(known) > 1 else np.nan,
        "median": float(np.median(known)) if len(known) else np.nan,
        "n": len(known),
        "ci95_low": low,
        "ci95_high": high,
    }


def wilcoxon_p(differences: Array) -> float:
    """Two-sided p of Wilcoxon's signed-rank test on paired differences (N,), NaN skipped.

    Wilcoxon 1945, doi:10.2307/3001968. 1 where all pairs are equal; NaN without a pair.
    """
    differences = differences[~np.isnan(differences)]
    if len(differences) == 0:
        return np.nan
    return float(stats.wilcoxon(differences).pvalue) if differences.any() else 1.0
