"""Growth charts: the volume of each structure over a covariate, with a fitted curve."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from scipy import stats

from atlasmith.core.grid import Array
from atlasmith.report import charts
from atlasmith.report.results import Results
from atlasmith.report.structures import MM3_PER_ML

MIN_SCANS = 8  # that a curve is fitted to
MAX_CHARTS = 12  # of a covariate: the structures whose volume it explains best
POINTS = 41  # of a curve


@dataclass(frozen=True)
class GrowthCharts:
    """The charts of one covariate.

    Args:
        covariate: Its name.
        scans: Their number.
        shown: Charts.
        structures: How many structures there are.
    """

    covariate: str
    scans: int
    shown: list[Markup]
    structures: int


def growth_charts(results: Results) -> list[GrowthCharts]:
    """Make charts for each continuous covariate that is known of enough segmented scans."""
    found = []
    for covariate in results.config.cohort.covariates:
        ids, values = [], []
        for name in results.volumes:
            value = results.by_id[name].covariates.get(covariate) if name in results.by_id else None
            if isinstance(value, float):
                ids.append(name)
                values.append(value)
        if len(ids) >= MIN_SCANS and len(set(values)) > 2:
            found.append(_charts_of(results, covariate, ids, np.array(values)))
    return found


def _charts_of(results: Results, covariate: str, ids: list[str], values: Array) -> GrowthCharts:
    at = np.linspace(values.min(), values.max(), POINTS)
    ranked = []
    for label, name in results.label_names.items():
        known = np.array([label in results.volumes[i] for i in ids])
        if known.sum() < MIN_SCANS:
            continue
        x = values[known]
        scans = [i for i, has in zip(ids, known, strict=True) if has]
        y = np.array([float(results.volumes[i][label]["volume_mm3"]) for i in scans]) / MM3_PER_ML
        fit, explained = quadratic_fit(x, y, at)
        groups: dict[str, list[int]] = {}
        for position in np.argsort(x, kind="stable").tolist():
            groups.setdefault(results.by_id[scans[position]].participant, []).append(position)
        points = [(x[group], y[group]) for group in groups.values()]
        ranked.append((-explained, label, points, (at, *fit), name))
    ranked.sort(key=lambda entry: entry[:2])
    shown = [charts.growth(points, fit, (name, covariate)) for _, _, points, fit, name in ranked[:MAX_CHARTS]]
    return GrowthCharts(covariate, len(ids), shown, len(ranked))


def quadratic_fit(x: Array, y: Array, at: Array) -> tuple[tuple[Array, Array, Array], float]:
    """Fit a quadratic curve by least squares.

    Args:
        x: (n,), n of 4 at least.
        y: (n,).
        at: Where the curve is wanted, (m,).

    Returns:
        The expected values (m,) and the ends of their 95 % intervals (m,), and the share of the variance that
        the curve explains.
    """
    middle, scale = x.mean(), x.std() or 1.0

    def design(values: Array) -> Array:
        return np.vander((values - middle) / scale, 3)

    coefficients, *_ = np.linalg.lstsq(design(x), y, rcond=None)
    residuals = y - design(x) @ coefficients
    degrees = len(x) - 3
    variance = float(residuals @ residuals) / degrees
    covariance = np.linalg.pinv(design(x).T @ design(x)) * variance
    expected = design(at) @ coefficients
    error = np.sqrt(np.einsum("mi,ij,mj->m", design(at), covariance, design(at)).clip(min=0))
    half = stats.t.ppf(0.975, degrees) * error
    total = float(np.square(y - y.mean()).sum())
    explained = 1 - float(residuals @ residuals) / total if total > 0 else 0.0
    return (expected, expected - half, expected + half), explained
