"""Small cohorts of several channels, preprocessed and trained without an affine stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

from atlasmith.config import Config, parse_config
from atlasmith.core.grid import Array, Grid
from atlasmith.io.files import write_json
from atlasmith.io.images import read_image, write_image
from atlasmith.io.tables import Subject, write_cohort
from atlasmith.io.transforms import write_affine
from atlasmith.preprocess import preprocess_subject
from atlasmith.template import train

LEVELS = {"T1w": (0.8, 0.8), "T2w": (0.3, 0.9)}  # intensities of the object and of the nucleus in it


def scan(shape: Sequence[int], shift: float = 0.0, seed: int | None = None) -> dict[str, Array]:
    """An ellipsoid with a nucleus that only T2w shows, `shift` voxels along the first axis.

    With a seed the subject is bent by up to a voxel and a half, and a stripe through it is seen in both.
    """
    points = np.indices(shape) - (np.array(shape) - 1).reshape(-1, *[1] * len(shape)) / 2
    if seed is not None:
        random = np.random.default_rng(seed)
        bend = np.stack([gaussian_filter(random.normal(size=shape), 5) for _ in shape])
        points = points + 1.5 * bend / np.abs(bend).max()
    axes = np.array([0.42, 0.36, 0.38])[: len(shape)] * np.array(shape)
    inside = sum((x / a) ** 2 for x, a in zip(points, axes, strict=True)) < 1
    center = [shift, *[1.0] * (len(shape) - 1)]
    nucleus = sum((x - c) ** 2 for x, c in zip(points, center, strict=True)) < (0.16 * min(shape)) ** 2
    stripe = 0.15 * (np.abs(points[0] + 5) < 1.2) * (seed is not None)
    return {
        name: gaussian_filter(np.where(nucleus, level, around) * inside + stripe * inside, 0.7)
        for name, (around, level) in LEVELS.items()
    }


def build(
    folder: Path,
    cohort: Sequence[Mapping[str, Array]],
    exclude: Mapping[int, Array] | None = None,
    channels: Sequence[str] = ("T1w", "T2w"),
    ages: Sequence[float] | None = None,
    **template: Any,
) -> Config:
    """Write a cohort whose images are aligned already, preprocess it and train a template."""
    shape = (*next(iter(cohort[0].values())).shape, 1)[:3]
    grid = Grid((shape[0], shape[1], shape[2]), np.eye(4))
    settings = {"steps": 0, "network": {"channels": [4, 8]}, "refinement": {"rounds": 2, "steps": 8}}
    config = parse_config(
        {
            "output": str(folder / "results"),
            "device": "cpu",
            "cohort": {
                "bids": str(folder),
                "suffix": list(channels),
                "covariates": ["age"] if ages else [],
                "exclude": "exclude" if exclude else None,
            },
            "template": {"condition_on": ["age"] if ages else [], **settings, **template},
        }
    )
    layout, subjects = config.layout, []
    write_json(layout.grid, grid.to_dict())
    for index, images in enumerate(cohort):
        paths = {name: folder / f"{index}_{name}.nii.gz" for name in channels if name in images}
        for name, path in paths.items():
            write_image(path, images[name].reshape(shape).astype(np.float32), grid)
        region = None
        if exclude and index in exclude:
            region = folder / f"{index}_mask.nii.gz"
            write_image(region, exclude[index].reshape(shape).astype(np.uint8), grid)
        subjects.append(
            Subject(
                f"{index:02d}",
                "train",
                next(iter(paths.values())),
                covariates={"age": ages[index]} if ages else {},
                channels=paths if len(channels) > 1 else {},
                exclude=region,
            )
        )
    write_cohort(layout.cohort, subjects, config.cohort.covariates)
    for subject in subjects:
        preprocess_subject(config, subject.id)
        write_affine(layout.affine(subject.id), np.eye(4))
        for name in subject.channels or channels:
            data = read_image(layout.preprocessed(subject.id, name)).data
            write_image(layout.affine_image(subject.id, name), data, grid)
            write_json(layout.affine_image(subject.id, name).with_suffix("").with_suffix(".json"), {})
    train(config)
    return config


def template(config: Config, channel: str = "T1w") -> Array:
    """The template (X, Y, Z) of a channel."""
    return read_image(config.layout.template_channel(channel)).data
