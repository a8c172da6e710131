"""The template: pictures of its planes, along its covariates, and the volumes of its viewer."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from atlasmith.core.grid import Array
from atlasmith.io.images import Image, read_image, read_labels
from atlasmith.report import pictures
from atlasmith.report.pictures import PLANES, plane_axes
from atlasmith.report.results import Results, image_at, json_at

MAX_TEMPLATES = 24  # along the covariates


@dataclass(frozen=True)
class Picture:
    """A picture as a data URI, with its text, and its width over its height."""

    uri: str
    alt: str
    ratio: float


@dataclass(frozen=True)
class Axis:
    """A covariate along which the template is shown: its values as texts, and the first one shown."""

    name: str
    texts: list[str]
    start: int


@dataclass(frozen=True)
class Frame:
    """The template at one value of each axis: its rows of pictures, and whether it is shown at first."""

    at: tuple[int, ...]
    rows: list[list[Picture]]
    shown: bool


@dataclass(frozen=True)
class Conditional:
    """The template along its covariates; `limit` is the difference of intensities in full color."""

    axes: list[Axis]
    frames: list[Frame]
    limit: float


def make_picture(pixels: Array, alt: str) -> Picture:
    """Encode RGB bytes (rows, columns, 3)."""
    return Picture(pictures.png(pixels), alt, round(pixels.shape[1] / pixels.shape[0], 3))


def middle_plane(image: Image, axis: int) -> Array:
    """Cut an image in the middle of an axis: (rows, columns)."""
    return pictures.plane(image.data, image.grid, axis, image.grid.shape[axis] // 2)


def template_rows(results: Results) -> list[list[Picture]]:
    """Show the template with and without its labels, and the affine mean, in the middle planes."""
    layout = results.layout
    image, mean = image_at(layout.template_image), image_at(layout.affine_reference)
    if image is None:
        return []
    limits = pictures.window(*(each.data for each in (image, mean) if each))
    axes = plane_axes(image.grid)
    gray = {axis: pictures.gray(middle_plane(image, axis), limits) for axis in axes}
    rows = [[make_picture(gray[axis], f"template, {PLANES[axis]}") for axis in axes]]
    if layout.template_labels.exists():
        labels = read_labels(layout.template_labels)
        rows.append(
            [
                make_picture(
                    pictures.outlines(gray[axis], middle_plane(labels, axis), results.colors),
                    f"template and its labels, {PLANES[axis]}",
                )
                for axis in axes
            ]
        )
    if mean is not None:
        rows.append(
            [
                make_picture(pictures.gray(middle_plane(mean, axis), limits), f"affine mean, {PLANES[axis]}")
                for axis in axes
            ]
        )
    return _joined(rows, image.grid.ndim)


def conditional_entries(results: Results) -> list[tuple[int, dict[str, Any]]]:
    """List the templates along the covariates that are shown: their numbers and covariates."""
    described = json_at(results.layout.template_description).get("cohort", {})
    entries = [
        (int(key), entry["covariates"])
        for key, entry in described.items()
        if results.layout.template_at(int(key)).exists()
    ]
    return entries[:MAX_TEMPLATES]


def conditional_template(results: Results) -> Conditional | None:
    """Show the template along its covariates; None where it has none."""
    entries = conditional_entries(results)
    mean = image_at(results.layout.template_image)
    if len(entries) < 2 or mean is None:
        return None
    names = [name for name in entries[0][1] if len({_text(values[name]) for _, values in entries}) > 1]
    texts = {name: list(dict.fromkeys(_text(values[name]) for _, values in entries)) for name in names}
    images = [read_image(results.layout.template_at(number)) for number, _ in entries]
    limits = pictures.window(*(image.data for image in images))
    changes = [Image(image.data - mean.data, mean.grid) for image in images]
    limit = max(float(np.percentile(np.abs([change.data for change in changes]), 99.5)), 1e-6)
    axes = plane_axes(mean.grid)
    frames = []
    for index, ((_, values), image, change) in enumerate(zip(entries, images, changes, strict=True)):
        name = covariates_text(values)
        rows = [
            [
                make_picture(pictures.gray(middle_plane(image, axis), limits), f"{name}, {PLANES[axis]}")
                for axis in axes
            ],
            [
                make_picture(
                    pictures.diverging(middle_plane(change, axis), limit),
                    f"{name}, difference, {PLANES[axis]}",
                )
                for axis in axes
            ],
        ]
        at = tuple(texts[name].index(_text(values[name])) for name in names)
        frames.append(Frame(at, _joined(rows, mean.grid.ndim), index == 0))
    return Conditional(
        [Axis(name, texts[name], frames[0].at[k]) for k, name in enumerate(names)], frames, limit
    )


def covariates_text(values: dict[str, Any]) -> str:
    """Write covariates and their values as words."""
    return ", ".join(f"{name} {_text(value)}" for name, value in values.items())


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _joined(rows: Iterable[Sequence[Picture]], ndim: int) -> list[list[Picture]]:
    """In 2-D, one row of all pictures."""
    return [list(itertools.chain(*rows))] if ndim == 2 else [list(row) for row in rows]
