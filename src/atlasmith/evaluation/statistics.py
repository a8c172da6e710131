"""What can be said of a score over subjects."""

from __future__ import annotations

import numpy as np
import scipy

from atlasmith.core.grid import Array


def draws(n: int, seed: int, resamples: int) -> Array:
    """Bootstrap resamples of `n` subjects: positions (resamples, n), with replacement."""
    return np.random.default_rng(seed).integers(n, size=(resamples, n))


def bootstrap_interval(values: Array, seed: int, resamples: int) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean of `values` (N,), NaN skipped; NaN for fewer than two.

    Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13.
    """
    values = values[~np.isnan(values)]
    if len(values) < 2:
        return np.nan, np.nan
    low, high = np.percentile(values[draws(len(values), seed, resamples)].mean(axis=1), (2.5, 97.5))
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
    return float(scipy.stats.wilcoxon(differences).pvalue) if differences.any() else 1.0


def benjamini_hochberg(p: Array) -> Array:
    """p (N,) adjusted for N tests, so that those below q have a false discovery rate of at most q.

    Benjamini and Hochberg 1995, doi:10.1111/j.2517-6161.1995.tb02031.x. NaN stays, and counts as no test.
    """
    adjusted = np.full(p.shape, np.nan)
    known = ~np.isnan(p)
    adjusted[known] = scipy.stats.false_discovery_control(p[known]) if known.any() else np.nan
    return adjusted
