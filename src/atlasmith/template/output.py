"""Write a trained template after TemplateFlow."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from atlasmith import __version__
from atlasmith.config import Config
from atlasmith.io.files import write_json
from atlasmith.io.images import write_image
from atlasmith.io.tables import SUBPOPULATION
from atlasmith.networks import Groupwise


@torch.inference_mode()
def write_template(config: Config, model: Groupwise) -> None:
    """Write weights, the template at the mean covariates and at those of `evaluate_at`, and its description.

    Args:
        config: The run's config.
        model: The trained model, on the CPU.
    """
    layout, grid = config.layout, model.grid
    subpopulations = model.code.categorical.get(SUBPOPULATION, {})
    points = ({SUBPOPULATION: [*subpopulations]} if subpopulations else {}) | config.template.evaluate_at
    for missing in [value for value in points.get(SUBPOPULATION, []) if value not in subpopulations]:
        print(f"template: no subpopulation {missing} was found, so no template is written for it", flush=True)
        points[SUBPOPULATION] = [value for value in points[SUBPOPULATION] if value != missing]
    model.save(layout.template_weights)

    def write(path: Path, code: Tensor) -> None:
        write_image(path, grid.unsqueeze(model.template(code[None])[0, 0].numpy()), grid)

    write(layout.template_image, torch.zeros(model.code.size))
    cohorts = {}
    for number, values in enumerate(itertools.product(*points.values()) if points else (), start=1):
        covariates = {
            name: float(value) if isinstance(value, int | float) else value
            for name, value in zip(points, values, strict=True)
        }
        write(layout.template_at(number), model.code.encode(covariates))
        name = ", ".join(f"{covariate} {value}" for covariate, value in covariates.items())
        cohorts[str(number)] = {"covariates": covariates, "name": name}
    write_json(
        layout.template_description,
        {
            "Identifier": config.template.name,
            "Name": f"{config.template.name}: built by atlasmith {__version__}",
            "BIDSVersion": "1.11.1",
            "TemplateFlowVersion": "1.0.0",
            "cohort": cohorts,
            "res": {
                "1": {
                    "origin": np.round(grid.affine[:3, 3], 4).tolist(),
                    "shape": list(grid.shape),
                    "zooms": list(grid.spacing),
                }
            },
        },
    )
