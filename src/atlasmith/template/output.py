"""Write a trained template after TemplateFlow."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from atlasmith import __version__
from atlasmith.config import Config
from atlasmith.core.grid import Array, Grid
from atlasmith.core.intensity import foreground
from atlasmith.io.channels import present_channels
from atlasmith.io.files import write_json
from atlasmith.io.images import write_image
from atlasmith.io.sidecars import BIDS_VERSION, is_skull_stripped, read_description, write_sidecar
from atlasmith.io.tables import SUBPOPULATION, Subject
from atlasmith.networks import Groupwise


@torch.inference_mode()
def write_template(config: Config, model: Groupwise, subjects: Sequence[Subject]) -> None:
    """Write weights, the template at the mean covariates and at those of `evaluate_at`, and its description.

    A mask of the object in the template is written beside it, as TemplateFlow's clients expect.

    Args:
        config: The run's config.
        model: The trained model, on the CPU.
        subjects: That it was trained on.
    """
    layout, grid = config.layout, model.grid
    subpopulations = model.code.categorical.get(SUBPOPULATION, {})
    points = ({SUBPOPULATION: [*subpopulations]} if subpopulations else {}) | config.template.evaluate_at
    for missing in [value for value in points.get(SUBPOPULATION, []) if value not in subpopulations]:
        print(f"template: no subpopulation {missing} was found, so no template is written for it", flush=True)
        points[SUBPOPULATION] = [value for value in points[SUBPOPULATION] if value != missing]
    model.save(layout.template_weights)

    describe = partial(write_sidecar, layout, grid=grid, reference=layout.template_image)
    images: dict[str, list[Path]] = {channel: [] for channel in layout.channels}
    for subject in subjects:
        for channel, present in zip(layout.channels, present_channels(layout, subject), strict=True):
            images[channel] += [layout.affine_image(subject.id, channel)] if present else []
    stripped = {channel: is_skull_stripped(paths) for channel, paths in images.items()}

    def write(path_of: Callable[[str], Path], code: Tensor, description: str) -> Array:
        """Write the template at some covariates, and return its first channel."""
        template = model.template(code[None])[0].numpy()
        for channel, data in zip(layout.channels, template, strict=True):
            path = path_of(channel)
            write_image(path, grid.unsqueeze(data), grid)
            describe(path, description, sources=images[channel], skull_stripped=stripped[channel])
        return template[0]

    mean = write(layout.template_channel, torch.zeros(model.code.size), "Template at the mean covariates")
    write_image(layout.template_mask, grid.unsqueeze(foreground(mean)).astype(np.uint8), grid)
    describe(
        layout.template_mask,
        "The object in the template: the brain where the images are skull-stripped, else all that is imaged",
        sources=[layout.template_image],
        Type="Brain" if stripped[layout.suffix] else "ROI",
    )
    cohorts = {}
    for number, values in enumerate(itertools.product(*points.values()) if points else (), start=1):
        covariates = {
            name: float(value) if isinstance(value, int | float) else value
            for name, value in zip(points, values, strict=True)
        }
        name = ", ".join(f"{covariate} {value}" for covariate, value in covariates.items())
        write(partial(layout.template_at, number), model.code.encode(covariates), f"Template at {name}")
        cohorts[str(number)] = {"covariates": covariates, "name": name}
    write_json(layout.template_description, _description(config, grid, cohorts))


def _description(config: Config, grid: Grid, cohorts: dict[str, Any]) -> dict[str, Any]:
    """TemplateFlow's description, with the authors and the license of the cohort."""
    source = read_description(config.cohort.bids)
    return {
        "Identifier": config.template.name,
        "Name": f"{config.template.name}: built by atlasmith {__version__}",
        "Authors": source.get("Authors", []),
        "License": source.get("License", "not stated by the source dataset"),
        "Acknowledgements": source.get("Acknowledgements") or source.get("HowToAcknowledge", ""),
        "ReferencesAndLinks": source.get("ReferencesAndLinks", []),
        "BIDSVersion": BIDS_VERSION,
        "TemplateFlowVersion": "1.0.0",
        "cohort": cohorts,
        "res": {
            "1": {
                "origin": np.round(grid.affine[:3, 3], 4).tolist(),
                "shape": list(grid.shape),
                "zooms": list(grid.spacing),
            }
        },
    }
