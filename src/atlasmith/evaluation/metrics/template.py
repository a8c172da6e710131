"""How sharp a template is, and how well it stands for its cohort."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import xlogy

from atlasmith.core.grid import Array
from atlasmith.core.labels import count_overlap, dice
from atlasmith.evaluation import statistics
from atlasmith.evaluation.metrics.votes import plurality


def sharpness_per_mm(image: Array, mask: Array, spacing_mm: Sequence[float]) -> float:
    """Mean gradient magnitude in `mask`, of intensities scaled by the mask's 1st and 99th percentile.

    image, mask: 2-D or 3-D. Blur lowers it; a change of intensity scale and offset leaves it. NaN if flat.
    """
    low, high = np.percentile(image[mask], (1, 99))
    gradient = np.asarray(np.gradient(image.astype(np.float64), *spacing_mm))
    magnitude = np.linalg.norm(gradient[:, mask], axis=0)
    return float(magnitude.mean() / (high - low)) if high > low else np.nan


def gradient_energy_per_mm2(image: Array, mask: Array, spacing_mm: Sequence[float]) -> float:
    """Mean squared gradient magnitude in `mask`, of intensities as they are: compare images on one scale.

    image, mask: 2-D or 3-D. The blur of an edge, which leaves the mean magnitude as it is, lowers the square.
    """
    gradient = np.asarray(np.gradient(image.astype(np.float64), *spacing_mm))
    return float((gradient[:, mask] ** 2).sum(axis=0).mean())


def entropy_focus_criterion(values: Array) -> float:
    """0 for one bright voxel to 1 for a uniform image (N,); lower is sharper. Negative values count as 0.

    Atkinson et al. 1997, doi:10.1109/42.650886. NaN for fewer than two voxels, or an empty image.
    """
    x = values.clip(min=0).astype(np.float64)
    norm = np.sqrt(x @ x)
    if x.size < 2 or norm == 0:
        return np.nan
    root = np.sqrt(x.size)
    return float(xlogy(x / norm, x / norm).sum() / (root * np.log(1 / root)))


def mean_displacement_mm(mean_field: Array) -> tuple[float, float]:
    """(mean, maximum) over points of the length of the cohort's mean displacement (N, 3); 0 for a template
    in the middle of its cohort (Guimond et al. 2000, doi:10.1006/cviu.1999.0815)."""
    length = np.linalg.norm(mean_field, axis=1)
    return float(length.mean()), float(length.max())


def centrality_mm(displacements: Array, seed: int, resamples: int) -> tuple[float, float, float]:
    """The mean of `mean_displacement_mm` of subjects' displacements (S, N, 3), mm, and a 95 % interval.

    Chance lengthens a mean, and most where its true length is 0, so that percentiles of resampled values
    would miss the truth. But the value is no further off than the mean field itself: the interval is the
    value -+ the 95th percentile of how far resampled mean fields are from it, cut at 0. NaN for one subject.
    """
    subjects = len(displacements)
    fields = displacements.reshape(subjects, -1)
    mean = fields.mean(axis=0)

    def length(field: Array) -> float:
        return mean_displacement_mm(field.reshape(-1, 3))[0]

    value = length(mean)
    if subjects < 2:
        return value, np.nan, np.nan
    times = (np.bincount(who, minlength=subjects) for who in statistics.draws(subjects, seed, resamples))
    error = float(np.percentile([length(t @ fields / subjects - mean) for t in times], 95))
    return value, max(value - error, 0.0), value + error


def bridge_dice(propagated: Array, own: Array, labels: int) -> Array:
    """Dice (L,) of a subject's own labels (N,) with the plurality of other subjects' labels (A, N), which
    came to it through the template. Both of the values 0..`labels`, by `label_index`.

    The subject's own labels must not be among the others. Ding and Niethammer 2022, arXiv:2202.03563.
    """
    return dice(count_overlap(own, plurality(propagated)[0], labels))
