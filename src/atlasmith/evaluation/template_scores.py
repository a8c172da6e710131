"""Scores of a template: its sharpness, and how central it is in its cohort."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from atlasmith.core.grid import Array, DisplacementField, Step
from atlasmith.evaluation import metrics
from atlasmith.evaluation.scores import Score, make_score

SAMPLED_POINTS = 2000  # of the object at most, at which the mean displacement gets its interval
SAMPLED_IN_ALL = 2_000_000  # points of all subjects together at most, which bounds memory


def sharpness_scores(
    image: Array, mask: Array, spacing_mm: Sequence[float], label: str | None = None
) -> list[Score]:
    """Score the sharpness of an image (*shape), 2-D or 3-D, within a mask (*shape), as scores of a label."""
    scores = [
        make_score(name, metric(image, mask, spacing_mm), label)
        for name, metric in metrics.SHARPNESS_METRICS.items()
    ]
    name = "entropy_focus_criterion"
    return [*scores, make_score(name, metrics.METRICS[name](image[mask]), label)]


def displacement_scores(
    transforms: Iterable[Sequence[Step]],
    participants: Sequence[str],
    points: Array,
    seed: int,
    resamples: int,
) -> list[Score]:
    """Score how far the subjects' mean displacement is from 0.

    Args:
        transforms: Each scan's steps from the template, read one at a time. Only displacement fields
            count, which come first, on the template's grid: the pose is no property of the template.
        participants: That of each scan.
        points: World points (N, 3) of the template's object, mm.
        seed: Of the choice of points and the resampling of subjects, for the interval.
        resamples: Bootstrap resamples.

    Returns:
        Mean and maximum length of the mean displacement, then its mean length at some of the points, with a
        95 % interval.
    """
    total = np.zeros_like(points)
    scans = len(participants)
    count = min(SAMPLED_POINTS, max(1, SAMPLED_IN_ALL // scans))
    chosen = np.random.default_rng(seed).permutation(len(points))[:count]
    sampled = []
    for steps in transforms:
        fields = [step for step in steps if isinstance(step, DisplacementField)]
        displacements = metrics.displacements_mm(fields, points)
        total += displacements
        sampled.append(displacements[chosen].astype(np.float32))
    value, low, high = metrics.centrality_mm(np.stack(sampled), seed, resamples, participants)
    unit = metrics.METRICS["centrality_mm"].unit
    return [
        make_score("mean_displacement_mm", metrics.mean_displacement_mm(total / scans)),
        make_score("max_displacement_mm", metrics.max_displacement_mm(total / scans)),
        make_score("centrality_mm", value),
        Score(None, "centrality_low_mm", low, unit),
        Score(None, "centrality_high_mm", high, unit),
    ]
