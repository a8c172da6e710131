"""Statistics of a score over subjects: summary, bootstrap interval, paired comparison."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy

from atlasmith.core.grid import Array


def bootstrap_percentiles(
    statistic: Callable[[Array], Array],
    subjects: int,
    percentiles: float | tuple[float, ...],
    seed: int,
    resamples: int,
) -> Array:
    """Compute percentiles of a statistic over bootstrap resamples of subjects.

    Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13.

    Args:
        statistic: Takes positions of subjects (resamples, subjects), drawn with replacement, and returns a
            value for each resample (resamples,).
        subjects: Number of subjects.
        percentiles: 0 to 100.
        seed: Of the resampling: the same seed gives the same result.
        resamples: Number of resamples.

    Returns:
        The percentiles, in their order.
    """
    positions = np.random.default_rng(seed).integers(subjects, size=(resamples, subjects))
    return np.percentile(statistic(positions), percentiles)


def bootstrap_interval(values: Array, seed: int, resamples: int) -> tuple[float, float]:
    """Compute the 95 % percentile bootstrap interval of a mean.

    Args:
        values: A value for each subject (N,); NaN is skipped.
        seed: As in `bootstrap_percentiles`.
        resamples: Number of resamples.

    Returns:
        Lower and upper bound; NaN for fewer than two subjects.
    """
    values = values[~np.isnan(values)]
    if len(values) < 2:
        return np.nan, np.nan
    low, high = bootstrap_percentiles(
        lambda positions: values[positions].mean(axis=1), len(values), (2.5, 97.5), seed, resamples
    )
    return float(low), float(high)


def summary(values: Array, seed: int, resamples: int) -> dict[str, float | int]:
    """Summarize a score over subjects.

    Args:
        values: A value for each subject (N,); NaN is skipped.
        seed: As in `bootstrap_percentiles`.
        resamples: Number of resamples.

    Returns:
        `mean`, `sd` (of a sample), `median`, `n`, and the 95 % interval of the mean, `ci95_low` and
        `ci95_high`. NaN where undefined.

    Example:
        >>> summary(np.array([0.8, 0.9, np.nan]), seed=0, resamples=100)["n"]
        2
    """
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
    """Compute the two-sided p of Wilcoxon's signed-rank test.

    Wilcoxon 1945, doi:10.2307/3001968.

    Args:
        differences: Paired differences (N,); NaN is skipped.

    Returns:
        The p-value; 1 where all pairs are equal, NaN without a pair.
    """
    differences = differences[~np.isnan(differences)]
    if len(differences) == 0:
        return np.nan
    return float(scipy.stats.wilcoxon(differences).pvalue) if differences.any() else 1.0


def benjamini_hochberg(p: Array) -> Array:
    """Adjust p-values for the number of tests, to control the false discovery rate.

    Benjamini and Hochberg 1995, doi:10.1111/j.2517-6161.1995.tb02031.x.

    Args:
        p: p-values (N,); NaN stays NaN, and counts as no test.

    Returns:
        Adjusted p-values (N,): those below q have a false discovery rate of at most q.
    """
    adjusted = np.full(p.shape, np.nan)
    known = ~np.isnan(p)
    adjusted[known] = scipy.stats.false_discovery_control(p[known]) if known.any() else np.nan
    return adjusted
