"""Training again from a finished run's affine stage, and how sharp the templates are."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from atlasmith.config import Config
from atlasmith.evaluation import metrics
from atlasmith.io.images import Image
from atlasmith.io.tables import Subject, write_cohort


def beside(run: Path, config: Config, folder: Path, people: Sequence[Subject]) -> Config:
    """`config` with its output in `folder`, where the affine stage of `run` is linked, of `people`."""
    made = config.model_copy(update={"output": run}).layout
    config = config.model_copy(update={"output": folder})
    write_cohort(config.layout.cohort, people, config.cohort.covariates)
    pairs = [(made.grid, config.layout.grid), (made.labels, config.layout.labels)]
    for subject in people:
        for name in ("preprocessed", "affine", "affine_image"):
            pairs.append(tuple(getattr(layout, name)(subject.id) for layout in (made, config.layout)))
    pairs.append((made.affine_reference, config.layout.affine_reference))
    for path, link in pairs:
        link.parent.mkdir(parents=True, exist_ok=True)
        os.symlink(path, link)
    return config


def sharpness(template: Image, mean: Image) -> tuple[float, float]:
    """Gradient energy and entropy focus criterion inside the mean's object, over those of the mean."""
    grid = mean.grid
    inside = grid.squeeze(metrics.foreground(mean.data))

    def judged(image: Image) -> tuple[float, float]:
        data = grid.squeeze(image.data)
        low, high = np.percentile(data[inside], (1, 99))
        data = (data - low) / (high - low)
        energy = metrics.gradient_energy_per_mm2(data, inside, grid.tensor_spacing)
        return energy, metrics.entropy_focus_criterion(data[inside].clip(0))

    return tuple(a / b for a, b in zip(judged(template), judged(mean), strict=True))  # type: ignore
