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

CHANNEL = "T1w"  # the name of an image that has none


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
        """Compute the template (X, Y, Z) at covariates; those that aren't given are at their mean.

        Of several channels: (C, X, Y, Z), in the order in which the images name them.
        """
        code = self.model.code.encode(covariates)
        channels = [self.grid.unsqueeze(data) for data in self.model.template(code[None])[0].numpy()]
        return channels[0] if len(channels) == 1 else np.stack(channels)

    @property
    def image(self) -> Array:
        """The template at the mean covariates, normalized intensities, as `at` gives it."""
        return self.at()


def build_template(
    images: Sequence[Image | Array | Mapping[str, Image | Array]],
    covariates: Mapping[str, Sequence[float | str | None]] | None = None,
    spacing: float | Sequence[float] = 1.0,
    exclude: Sequence[Array | None] | None = None,
    **sections: Mapping[str, Any],
) -> Template:
    """Build a template of a cohort: normalize, align affinely, train and refine.

    Args:
        images: The cohort, 2-D or 3-D; arrays (*shape) have voxels of `spacing` mm. Several channels of a
            subject are given by name, such as `{"T1w": first, "T2w": second}`; a subject may lack some.
        covariates: By name, a value for each image, None where it is missing. The template is a function of
            these.
        spacing: Voxel size of arrays, mm: one for all axes, or one for each. The template has the smallest
            voxel size of the images, unless `template` says otherwise.
        exclude: For each subject a boolean array in the shape of its first channel, such as a lesion, from
            which the template learns nothing, or None.
        **sections: Sections of a config, such as `template={"steps": 200}`, `preprocess` or `affine`.

    Returns:
        The template.

    Raises:
        InputError: For settings that can't be used.
        ValueError: Where covariates or `exclude` and images differ in number.

    Example:
        >>> x, y = np.mgrid[:24, :24] - 11.5
        >>> discs = [np.exp(-((np.hypot(x, y) / r) ** 4)) for r in (6, 7, 8, 9)]
        >>> settings = {"steps": 2, "network": {"channels": [4, 8]}, "refinement": {"rounds": 1, "steps": 2}}
        >>> radii = {"radius": [6, 7, 8, 9]}
        >>> template = build_template(discs, radii, template=settings)  # doctest: +ELLIPSIS
        affine reference: ...
        >>> bool(template.at(radius=9).sum() > template.at(radius=6).sum())
        True
    """
    cohort = [
        {
            name: as_image(channel, spacing)
            for name, channel in (image if isinstance(image, Mapping) else {CHANNEL: image}).items()
        }
        for image in images
    ]
    covariates, exclude = covariates or {}, exclude or [None] * len(cohort)
    for name, values in {**covariates, "exclude": exclude}.items():
        if len(values) != len(cohort):
            raise ValueError(f"{len(values)} values of {name} for {len(cohort)} images")
    with TemporaryDirectory() as folder:
        config = _write_inputs(Path(folder), cohort, covariates, exclude, sections)
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
    data = normalize(image.data, config.preprocess.window_of(config.cohort.channels[0]))
    return foreground_extent(Image(data, image.grid), config.template.margin)


def _write_inputs(
    folder: Path,
    cohort: Sequence[Mapping[str, Image]],
    covariates: Mapping[str, Sequence[float | str | None]],
    exclude: Sequence[Array | None],
    sections: Mapping[str, Mapping[str, Any]],
) -> Config:
    """Write what the stages read of the cohort stage: images, table and grid."""
    channels = list(dict.fromkeys(channel for images in cohort for channel in images))
    # The first channel of a subject decides on its grid.
    ordered = [{channel: images[channel] for channel in channels if channel in images} for images in cohort]
    firsts = [next(iter(images.values())) for images in ordered]
    template = {
        "spacing": min(min(image.grid.tensor_spacing) for image in firsts),
        "condition_on": list(covariates),
        **sections.get("template", {}),
    }
    config = parse_config(
        {
            **sections,
            "output": str(folder),
            "cohort": {
                "bids": str(folder),
                "suffix": channels,
                "covariates": list(covariates),
                "exclude": None if all(region is None for region in exclude) else "exclude",
            },
            "template": template,
        }
    )
    subjects = [
        _write_subject(folder / f"{index:06d}", images, {n: v[index] for n, v in covariates.items()}, region)
        for index, (images, region) in enumerate(zip(ordered, exclude, strict=True))
    ]
    flat = next((axis for axis in range(3) if axis not in firsts[0].grid.axes), None)
    extents = [_extent(config, image) for image in firsts]
    write_json(config.layout.grid, decide_grid(extents, flat, config.template).to_dict())
    write_cohort(config.layout.cohort, subjects, list(covariates))
    return config


def _write_subject(
    folder: Path,
    images: Mapping[str, Image],
    covariates: Mapping[str, float | str | None],
    exclude: Array | None,
) -> Subject:
    """Write the channels of a subject, and what is excluded of the first of them."""
    paths = {channel: folder / f"{channel}.nii.gz" for channel in images}
    for channel, image in images.items():
        write_image(paths[channel], image.data.astype(np.float32), image.grid)
    region = None
    if exclude is not None:
        region, grid = folder / "exclude.nii.gz", next(iter(images.values())).grid
        write_image(region, exclude.reshape(grid.shape).astype(np.uint8), grid)
    return Subject(
        folder.name,
        "train",
        next(iter(paths.values())),
        covariates={name: float(v) if isinstance(v, int | float) else v for name, v in covariates.items()},
        channels=paths,
        exclude=region,
    )
