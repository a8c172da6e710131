"""The output folder of a run over a demo cohort that found the truth, or something near it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from atlasmith.config import Config, parse_config
from atlasmith.core.grid import Array, Grid
from atlasmith.demo.anatomy import AGE_MEAN, standardize_age
from atlasmith.demo.base import Base, render
from atlasmith.demo.generator import truth_file, truth_layout
from atlasmith.demo.warping import displace, exponentiate, world_positions
from atlasmith.io.files import read_json, write_json
from atlasmith.io.images import write_image
from atlasmith.io.tables import Subject, read_tsv, write_cohort, write_tsv
from atlasmith.io.transforms import read_composite, write_affine, write_composite

AGES = [30.0, 55.0, 80.0]


def names(folder: Path) -> list[str]:
    """List the subjects of a cohort."""
    return [row["participant_id"].removeprefix("sub-") for row in read_tsv(folder / "participants.tsv")]


def plant(
    folder: Path,
    output: Path,
    base: Base,
    swapped: bool = False,
    growth: float = 1.0,
    blur: float = 0.0,
    spacing: float = 3.0,
) -> Config:
    """Write an output folder as if a run had found the truth, in a template that is the base.

    swapped: forward and inverse exchanged. growth: the fraction of the age effect that the template shows.
    blur: of its images, and spacing: of its voxels, both in voxels of the base.
    """
    config = parse_config(
        {
            "output": str(output),
            "cohort": {"bids": str(folder), "suffix": base.scanner.suffix, "covariates": ["age"]},
            "template": {"name": "Demo", "condition_on": ["age"], "evaluate_at": {"age": AGES}},
        }
    )
    layout, truth, ids = config.layout, truth_layout(folder), names(folder)
    write_cohort(layout.cohort, [Subject(name, "train", folder / name) for name in ids], [])
    facts = read_json(truth_file(folder))["subjects"]
    for name in ids:
        forward, inverse = read_composite(truth.forward(name)), read_composite(truth.inverse(name))
        if swapped:
            forward, inverse = inverse, forward
        write_composite(layout.forward(name), forward)
        write_composite(layout.inverse(name), inverse)
        write_affine(layout.affine(name), np.array(facts[name]["pose"]))
    columns = ["stage", "method", "label", "metric", "mean"]
    row = {"stage": "fuse", "method": "majority", "label": "mean", "metric": "dice", "mean": 0.8}
    write_tsv(layout.summary, [row, {**row, "label": "5", "mean": 0.1}], columns)

    shift = np.eye(4)  # the template is not aligned with the base
    shift[:3, :3] *= 1.05
    shift[:3, 3] = np.array([4, -6, 5]) * base.unit
    grid = base.grid.resampled(spacing * base.unit)
    world = Grid(grid.shape, np.linalg.inv(shift) @ grid.affine)
    for index, age in enumerate([AGE_MEAN, *AGES]):
        image, _ = render(base, _aged(base, world_positions(grid), growth * standardize_age(age)))
        path = layout.template_at(index) if index else layout.template_image
        write_image(path, 3 * gaussian_filter(image.reshape(grid.shape), blur / spacing), world)
    cohort = {str(index): {"covariates": {"age": age}} for index, age in enumerate(AGES, start=1)}
    write_json(layout.template_description, {"cohort": cohort})
    return config


def _aged(base: Base, points: Array, age: float) -> Array:
    """Where points (N, 3) of a body of an age, in standard deviations, lie in the base."""
    if base.age_velocity is None:
        return points
    return displace(points, exponentiate(-age * base.age_velocity, base.field_grid), base.field_grid)
