"""Metrics of a template: its sharpness, and how well it represents its cohort."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import xlogy

from atlasmith.core.grid import Array
from atlasmith.core.labels import count_overlap, dice
from atlasmith.evaluation.metrics.atlases import plurality
from atlasmith.evaluation.statistics import bootstrap
from atlasmith.io.tables import positions_by_participant


def sharpness_per_mm(image: Array, mask: Array, spacing_mm: Sequence[float]) -> float:
    """Compute the mean gradient magnitude, of intensities scaled by the mask's 1st and 99th percentile.

    Blur lowers it; a linear change of intensities does not change it.

    Args:
        image: (*shape), 2-D or 3-D.
        mask: (*shape), boolean: where to average.
        spacing_mm: Voxel sizes, mm.

    Returns:
        1/mm; NaN for a constant image.
    """
    low, high = np.percentile(image[mask], (1, 99))
    gradient = np.asarray(np.gradient(image.astype(np.float64), *spacing_mm))
    magnitude = np.linalg.norm(gradient[:, mask], axis=0)
    return float(magnitude.mean() / (high - low)) if high > low else np.nan


def gradient_energy_per_mm2(image: Array, mask: Array, spacing_mm: Sequence[float]) -> float:
    """Compute the mean squared gradient magnitude, of intensities as they are: compare images on one scale.

    The blur of an edge lowers it, but not the mean magnitude. Arguments as of `sharpness_per_mm`.
    """
    gradient = np.asarray(np.gradient(image.astype(np.float64), *spacing_mm))
    return float((gradient[:, mask] ** 2).sum(axis=0).mean())


def gradient_energy_ratio(image: Array, reference: Array, mask: Array, spacing_mm: Sequence[float]) -> float:
    """Compute the gradient energy of an image over that of a reference (*shape), both on one scale."""
    energies = [gradient_energy_per_mm2(each, mask, spacing_mm) for each in (image, reference)]
    return energies[0] / energies[1]


def entropy_focus_criterion(values: Array) -> float:
    """Compute the entropy of intensities: 0 for one bright voxel to 1 for a uniform image; sharper is lower.

    Atkinson et al. 1997, doi:10.1109/42.650886.

    Args:
        values: Intensities (N,); negative ones count as 0.

    Returns:
        0 to 1; NaN for fewer than two voxels, or an empty image.
    """
    x = values.clip(min=0).astype(np.float64)
    norm = np.sqrt(x @ x)
    if x.size < 2 or norm == 0:
        return np.nan
    root = np.sqrt(x.size)
    return float(xlogy(x / norm, x / norm).sum() / (root * np.log(1 / root)))


def mean_displacement_mm(mean_field: Array) -> float:
    """Compute the mean length of a cohort's mean displacement: 0 for a template in its center.

    Guimond et al. 2000, doi:10.1006/cviu.1999.0815.

    Args:
        mean_field: Mean over subjects of their displacements (N, 3), mm.

    Returns:
        The mean over the N points, mm.
    """
    return float(np.linalg.norm(mean_field, axis=1).mean())


def max_displacement_mm(mean_field: Array) -> float:
    """Compute the maximum length of a cohort's mean displacement (N, 3), mm."""
    return float(np.linalg.norm(mean_field, axis=1).max())


def centrality_mm(
    displacements: Array, seed: int, resamples: int, participants: Sequence[str] | None = None
) -> tuple[float, float, float]:
    """Compute `mean_displacement_mm` of a cohort, with a 95 % interval over subjects.

    Sampling error lengthens a mean, most of all where its true length is 0, so that percentiles of resampled
    lengths would miss the truth. But the length differs from the truth by no more than the mean field does:
    the interval is the length -+ the 95th percentile of the error of resampled mean fields, cut at 0.

    Args:
        displacements: Of S scans at N points (S, N, 3), mm.
        seed: Of the resampling.
        resamples: Number of resamples of subjects.
        participants: That of each scan, which are resampled together; None: each scan is of its own.

    Returns:
        Value, lower and upper bound, mm; the bounds are NaN for one subject.
    """
    scans = len(displacements)
    fields = displacements.reshape(scans, -1)
    mean = fields.mean(axis=0)
    owners = [str(k) for k in range(scans)] if participants is None else participants
    subjects = positions_by_participant(owners)

    def length(field: Array) -> float:
        return mean_displacement_mm(field.reshape(-1, 3))

    def errors(positions: Array) -> Array:
        drawn = (np.concatenate([subjects[k] for k in row]) for row in positions)
        counts = (np.bincount(rows, minlength=scans) for rows in drawn)
        return np.array([length(count @ fields / count.sum() - mean) for count in counts])

    value = length(mean)
    if len(subjects) < 2:
        return value, np.nan, np.nan
    error = float(bootstrap(errors, len(subjects), seed, resamples, alternative="less")[1])
    return value, max(value - error, 0.0), value + error


def bridge_dice(propagated: Array, own: Array, labels: int) -> Array:
    """Compute Dice of a subject's own labels with the most frequent of those propagated through a template.

    Ding and Niethammer 2022, arXiv:2202.03563.

    Args:
        propagated: Other subjects' labels (A, N), values 0 to `labels` as `label_index` makes them.
        own: The subject's (N,), in the same way; not among the others.
        labels: Number of labels L without background.

    Returns:
        (L,); NaN for a label in neither.
    """
    return dice(count_overlap(own, plurality(propagated)[0], labels))
