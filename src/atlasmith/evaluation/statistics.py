"""Statistics of a score over subjects: summary, bootstrap interval, paired comparison."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import scipy

from atlasmith.core.grid import Array
from atlasmith.io.tables import positions_by_participant


def participant_means(values: Array, participants: Sequence[str]) -> Array:
    """Average the scores of each participant's scans, which intervals and tests would otherwise take for
    independent.

    Args:
        values: A value for each scan (N,); NaN is skipped.
        participants: That of each scan.

    Returns:
        A value for each participant; NaN where all are.

    Example:
        >>> participant_means(np.array([0.8, 0.7, 0.9]), ["a", "b", "b"]).round(3).tolist()
        [0.8, 0.8]
    """
    groups = (values[positions] for positions in positions_by_participant(participants))
    known = (group[~np.isnan(group)] for group in groups)
    return np.array([group.mean() if len(group) else np.nan for group in known])


def bootstrap(
    statistic: Callable[[Array], Array],
    subjects: int,
    seed: int,
    resamples: int,
    alternative: Literal["two-sided", "less"] = "two-sided",
) -> tuple[Array, Array]:
    """Compute the 95 % percentile bootstrap interval of a statistic over subjects.

    Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13; as `scipy.stats.bootstrap`.

    Args:
        statistic: Takes positions of subjects (resamples, subjects), drawn with replacement, and returns
            values (..., resamples).
        subjects: Number of subjects, at least two.
        seed: Of the resampling: the same seed gives the same result.
        resamples: Number of resamples.
        alternative: `less`: an interval without lower bound.

    Returns:
        Lower and upper bounds (...).
    """
    found = scipy.stats.bootstrap(
        (np.arange(subjects),),
        lambda positions, axis: statistic(positions),
        n_resamples=resamples,
        vectorized=True,
        method="percentile",
        alternative=alternative,
        rng=np.random.default_rng(seed),
    )
    low, high = found.confidence_interval
    return low, high


def bootstrap_interval(values: Array, seed: int, resamples: int) -> tuple[float, float]:
    """Compute the 95 % percentile bootstrap interval of a mean.

    Args:
        values: A value for each subject (N,); NaN is skipped.
        seed: As in `bootstrap`.
        resamples: Number of resamples.

    Returns:
        Lower and upper bound; NaN for fewer than two subjects.
    """
    values = values[~np.isnan(values)]
    if len(values) < 2:
        return np.nan, np.nan
    low, high = bootstrap(lambda drawn: values[drawn].mean(axis=1), len(values), seed, resamples)
    return float(low), float(high)


def summary(values: Array, seed: int, resamples: int) -> dict[str, float | int]:
    """Summarize a score over subjects.

    Args:
        values: A value for each subject (N,); NaN is skipped.
        seed: As in `bootstrap`.
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
