"""Train again from a finished run's affine stage, and measure how sharp templates are."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from atlasmith.config import Config
from atlasmith.evaluation import metrics
from atlasmith.io.images import Image
from atlasmith.io.tables import Subject, write_cohort


def link_affine_stage(run: Path, config: Config, folder: Path, subjects: Sequence[Subject]) -> Config:
    """Make an output folder that continues after the affine stage of a finished run.

    Args:
        run: Output folder of the finished run.
        config: The config of the new run.
        folder: Its output folder, where the files of `run` are linked.
        subjects: Those of the new run.

    Returns:
        `config` with `folder` as its output.
    """
    finished = config.model_copy(update={"output": run}).layout
    config = config.model_copy(update={"output": folder})
    write_cohort(config.layout.cohort, subjects, config.cohort.covariates)
    pairs = [(finished.grid, config.layout.grid), (finished.labels, config.layout.labels)]
    for subject in subjects:
        for name in ("preprocessed", "affine", "affine_image"):
            pairs.append(tuple(getattr(layout, name)(subject.id) for layout in (finished, config.layout)))
    pairs.append((finished.affine_reference, config.layout.affine_reference))
    for path, link in pairs:
        link.parent.mkdir(parents=True, exist_ok=True)
        os.symlink(path, link)
    return config


def sharpness_ratios(template: Image, reference: Image) -> tuple[float, float]:
    """Divide a template's gradient energy and entropy focus criterion by those of the affine reference.

    Both are measured within the reference's object, on the same scale of intensities.
    """
    grid = reference.grid
    inside = grid.squeeze(metrics.foreground(reference.data))

    def measure(image: Image) -> tuple[float, float]:
        data = grid.squeeze(image.data)
        low, high = np.percentile(data[inside], (1, 99))
        data = (data - low) / (high - low)
        energy = metrics.gradient_energy_per_mm2(data, inside, grid.tensor_spacing)
        return energy, metrics.entropy_focus_criterion(data[inside].clip(0))

    energy, entropy = (a / b for a, b in zip(measure(template), measure(reference), strict=True))
    return energy, entropy
