"""Build a template from images in memory, by the same stages as the workflow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from atlasmith.affine import align_subject, build_reference
from atlasmith.cohort.grid import decide_grid
from atlasmith.cohort.images import foreground_extent
from atlasmith.config import Config, parse_config
from atlasmith.core.grid import Array, Grid
from atlasmith.core.intensity import normalize
from atlasmith.io.files import write_json
from atlasmith.io.images import Image, as_image, write_image
from atlasmith.io.tables import Subject, write_cohort
from atlasmith.networks import Groupwise
from atlasmith.preprocess import preprocess_subject
from atlasmith.template import train


@dataclass(frozen=True, eq=False)
class Template:
    """A template, and the network that registers images to it.

    Attributes:
        grid: The template's grid.
        model: The trained model; `Groupwise.save` writes it.
    """

    grid: Grid
    model: Groupwise

    @torch.inference_mode()
    def at(self, **covariates: float | str | None) -> Array:
        """Compute the template (X, Y, Z) at covariates; those that aren't given are at their mean."""
        code = self.model.code.encode(covariates)
        return self.grid.unsqueeze(self.model.template(code[None])[0, 0].numpy())

    @property
    def image(self) -> Array:
        """The template (X, Y, Z) at the mean covariates, normalized intensities."""
        return self.at()


def build_template(
    images: Sequence[Image | Array],
    covariates: Mapping[str, Sequence[float | str | None]] | None = None,
    spacing: float | Sequence[float] = 1.0,
    **sections: Mapping[str, Any],
) -> Template:
    """Build a template of a cohort: normalize, align affinely, train and refine.

    Args:
        images: The cohort, 2-D or 3-D; arrays (*shape) have voxels of `spacing` mm.
        covariates: By name, a value for each image, None where it is missing. The template is a function of
            these.
        spacing: Voxel size of arrays, mm: one for all axes, or one for each. The template has the smallest
            voxel size of the images, unless `template` says otherwise.
        **sections: Sections of a config, such as `template={"steps": 200}`, `preprocess` or `affine`.

    Returns:
        The template.

    Raises:
        InputError: For settings that can't be used.
        ValueError: Where covariates and images differ in number.

    Example:
        >>> x, y = np.mgrid[:24, :24] - 11.5
        >>> discs = [np.exp(-((np.hypot(x, y) / r) ** 4)) for r in (6, 7, 8, 9)]
        >>> settings = {"steps": 2, "network": {"channels": [4, 8]}, "refinement": {"rounds": 1, "steps": 2}}
        >>> radii = {"radius": [6, 7, 8, 9]}
        >>> template = build_template(discs, radii, template=settings)  # doctest: +ELLIPSIS
        template: ...
        >>> bool(template.at(radius=9).sum() > template.at(radius=6).sum())
        True
    """
    cohort = [as_image(image, spacing) for image in images]
    covariates = covariates or {}
    for name, values in covariates.items():
        if len(values) != len(cohort):
            raise ValueError(f"{len(values)} values of {name} for {len(cohort)} images")
    with TemporaryDirectory() as folder:
        config = _write_inputs(Path(folder), cohort, covariates, sections)
        for index in range(len(cohort)):
            preprocess_subject(config, f"{index:06d}")
        build_reference(config)
        for index in range(len(cohort)):
            align_subject(config, f"{index:06d}")
        train(config)
        model = Groupwise.load(config.layout.template_weights)
    return Template(model.grid, model)


def _extent(config: Config, image: Image) -> Array:
    """The size (3,) in mm of the object in a raw image."""
    data = normalize(image.data, config.preprocess.window)
    return foreground_extent(Image(data, image.grid), config.template.margin)


def _write_inputs(
    folder: Path,
    cohort: Sequence[Image],
    covariates: Mapping[str, Sequence[float | str | None]],
    sections: Mapping[str, Mapping[str, Any]],
) -> Config:
    """Write what the stages read of the cohort stage: images, table and grid."""
    template = {
        "spacing": min(min(image.grid.tensor_spacing) for image in cohort),
        "condition_on": list(covariates),
        **sections.get("template", {}),
    }
    config = parse_config(
        {
            **sections,
            "output": str(folder),
            "cohort": {"bids": str(folder), "covariates": list(covariates)},
            "template": template,
        }
    )
    subjects, extents = [], []
    for index, image in enumerate(cohort):
        path = folder / "images" / f"{index:06d}.nii.gz"
        write_image(path, image.data.astype(np.float32), image.grid)
        values = {
            name: float(value) if isinstance(value := given[index], int | float) else value
            for name, given in covariates.items()
        }
        subjects.append(Subject(f"{index:06d}", "train", path, None, values))
        extents.append(_extent(config, image))
    flat = next((axis for axis in range(3) if axis not in cohort[0].grid.axes), None)
    write_json(config.layout.grid, decide_grid(extents, flat, config.template).to_dict())
    write_cohort(config.layout.cohort, subjects, list(covariates))
    return config
