"""What the page of one subject shows: the volumes of its viewers, and its figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from atlasmith.core.grid import Array, Grid
from atlasmith.core.labels import label_index
from atlasmith.io.images import Image, read_image, read_labels
from atlasmith.report import pictures
from atlasmith.report.pictures import PLANES, plane
from atlasmith.report.results import Results, image_at
from atlasmith.report.text import words
from atlasmith.report.volumes import View, make_view

SHARED = "@"  # before the name of a volume that all pages share
MANUAL = "manual"


def ranks_of(results: Results) -> dict[int, int]:
    """The rank of each label, from 1, by which the viewer knows it."""
    return {label: rank for rank, label in enumerate(results.label_names, start=1)}


@dataclass(frozen=True)
class SharedVolumes:
    """The template's volumes, which the pages share.

    Args:
        view: Of the template's grid.
        volumes: Encoded, by name: each channel, and `labels` if the template has any.
    """

    view: View
    volumes: dict[str, str]


def shared_volumes(results: Results) -> SharedVolumes | None:
    """Encode the template and its labels; None where there is no template."""
    layout = results.layout
    images = {c: image for c in layout.channels if (image := image_at(layout.template_channel(c)))}
    if not images:
        return None
    first = next(iter(images.values()))
    view = make_view(first.grid, _content(first))
    volumes = {channel: view.encode_image(image.data) for channel, image in images.items()}
    if layout.template_labels.exists():
        volumes["labels"] = view.encode_labels(read_labels(layout.template_labels).data, ranks_of(results))
    return SharedVolumes(view, volumes)


def registration_view(results: Results, subject: str, shared: SharedVolumes | None) -> dict[str, Any] | None:
    """Encode a subject before and after registration, on the template's grid; None where it has none."""
    layout = results.layout
    channels = []
    for channel in layout.channels:
        affine, warped = (
            image_at(layout.affine_image(subject, channel)),
            image_at(layout.warped(subject, channel)),
        )
        if shared is None or affine is None or channel not in shared.volumes:
            continue
        limits = pictures.window(*(image.data for image in (affine, warped) if image))
        frames = [{"name": "affine", "data": shared.view.encode_image(affine.data, limits)}]
        if warped:
            frames.append({"name": "registered", "data": shared.view.encode_image(warped.data, limits)})
        channels.append({"name": channel, "frames": frames, "reference": SHARED + channel})
    if not channels or shared is None:
        return None
    labels = [{"name": "template", "data": f"{SHARED}labels"}] if "labels" in shared.volumes else []
    return {
        "plane": _plane(shared.view.grid),
        "channels": channels,
        "labels": labels,
        "start": shared.view.position(_center(shared.view.grid)),
    }


def template_view(
    results: Results, shared: SharedVolumes, entries: Sequence[tuple[int, str]]
) -> dict[str, Any]:
    """Encode the template along its covariates, or at their mean alone.

    Args:
        results: Of the run.
        shared: The template's volumes.
        entries: Of each template, its number and its covariates in words.
    """
    layout = results.layout
    channels = []
    for channel in (name for name in layout.channels if name in shared.volumes):
        images = [(read_image(layout.template_at(number, channel)), name) for number, name in entries]
        limits = pictures.window(*(image.data for image, _ in images)) if images else None
        frames = [
            {"name": name, "data": shared.view.encode_image(image.data, limits)} for image, name in images
        ]
        channels.append(
            {"name": channel, "frames": frames or [{"name": "template", "data": SHARED + channel}]}
        )
    name = "at the mean" if entries else "template"
    labels = [{"name": name, "data": f"{SHARED}labels"}] if "labels" in shared.volumes else []
    return {
        "plane": _plane(shared.view.grid),
        "channels": channels,
        "labels": labels,
        "start": shared.view.position(_center(shared.view.grid)),
    }


@dataclass(frozen=True, eq=False)
class Segmented:
    """A subject's image and its label maps, on its own grid.

    Args:
        images: By channel, the first one that there is being the reference.
        labels: By method, in the order in which they are shown; manual labels come last.
    """

    images: dict[str, Image]
    labels: dict[str, Array]

    @property
    def grid(self) -> Grid:
        """Where the voxels lie."""
        return next(iter(self.images.values())).grid

    @property
    def main(self) -> Array | None:
        """The labels by the main method, else the manual ones; None where there are none."""
        return next(iter(self.labels.values()), None)


def read_segmented(results: Results, subject: str) -> Segmented:
    """Read a subject's image and label maps: the main method first, manual labels last.

    Next to stage `score`, this is the only place that reads a target's manual labels.
    """
    layout = results.layout
    images = {c: image for c in layout.channels if (image := image_at(layout.preprocessed(subject, c)))}
    grid = next(iter(images.values())).grid
    labels = {}
    for method in reversed(results.config.fusion.methods):
        path = layout.segmentation(subject, method)
        if path.exists():
            labels[words(method)] = read_labels(path).data
    manual = results.by_id[subject].labels
    if manual and manual.exists():
        labels[MANUAL] = read_labels(manual).data
    return Segmented(
        {name: image for name, image in images.items() if image.grid.same_as(grid)},
        {name: data for name, data in labels.items() if data.shape == grid.shape},
    )


def segmentation_view(results: Results, subject: str, segmented: Segmented) -> dict[str, Any]:
    """Encode a subject's image and label maps, on its own grid."""
    images, main = segmented.images, segmented.main
    content = _content(next(iter(images.values())))
    for labels in segmented.labels.values():
        content = content | (labels != 0)
    view = make_view(segmented.grid, content)
    channels = [
        {"name": name, "frames": [{"name": name, "data": view.encode_image(image.data)}]}
        for name, image in images.items()
    ]
    confidence = image_at(results.layout.confidence(subject, results.last_method))
    if confidence is not None and confidence.data.shape == segmented.grid.shape:
        data = view.encode_image(confidence.data, (0.0, 1.0))
        channels.append({"name": "confidence", "frames": [{"name": "confidence", "data": data}]})
    ranks = ranks_of(results)
    start = _center(segmented.grid) if main is None else _largest_cross(main, segmented.grid)
    return {
        "plane": _plane(segmented.grid),
        "channels": channels,
        "labels": [
            {"name": name, "data": view.encode_labels(data, ranks)} for name, data in segmented.labels.items()
        ],
        "start": view.position(start),
        "coarse": view.coarse_text,
        "centers": {} if main is None else _centers(main, view, ranks),
    }


def thumbnail(results: Results, segmented: Segmented) -> tuple[str, str]:
    """Draw the plane with the largest labeled area, with outlines: a data URI, and its alternative text."""
    image = next(iter(segmented.images.values()))
    grid, labels = image.grid, segmented.main
    axis, index = pictures.largest_plane(np.zeros(grid.shape, int) if labels is None else labels, grid)
    picture = pictures.gray(plane(image.data, grid, axis, index), pictures.window(image.data))
    if labels is not None:
        picture = pictures.outlines(picture, plane(labels, grid, axis, index), results.colors)
    method = next(iter(segmented.labels), "")
    drawn = f", outlines of the labels ({method})" if method else ""
    return pictures.png(picture), f"{PLANES[axis]} slice{drawn}"


def _content(image: Image) -> Array:
    """Where an image is brighter than its background; everywhere in one without contrast."""
    low, high = pictures.window(image.data)
    found: Array = image.data > low + 0.05 * (high - low)
    return found if found.any() else np.ones(image.data.shape, bool)


def _plane(grid: Grid) -> str:
    """The only plane of a single slice; `all` planes of a volume."""
    return "all" if grid.ndim == 3 else PLANES[pictures.plane_axes(grid)[0]]


def _center(grid: Grid) -> Array:
    """The voxel coordinates (3) of a grid's middle."""
    return (np.array(grid.shape) - 1) / 2


def _largest_cross(labels: Array, grid: Grid) -> Array:
    """The voxel (3) where the planes with the largest labeled area of each axis cross."""
    mask = labels != 0
    if not mask.any():
        return _center(grid)
    areas = [mask.sum(axis=tuple(other for other in range(3) if other != axis)) for axis in range(3)]
    return np.array([int(area.argmax()) for area in areas], dtype=float)


def _centers(labels: Array, view: View, ranks: Mapping[int, int]) -> dict[int, list[float]]:
    """The voxel of each label that is deepest inside it, in fractions of the volume, by rank."""
    centers: dict[int, list[float]] = {}
    values = sorted(ranks)
    boxes = ndimage.find_objects(label_index(labels, np.array(values))) if values else []
    for label, box in zip(values, boxes, strict=False):  # labels beyond the last one found have no box
        if box is not None:
            inside = np.pad(labels[box] == label, 1)
            depth = ndimage.distance_transform_edt(inside, view.grid.spacing)
            deepest = np.array(np.unravel_index(int(depth.argmax()), inside.shape)) - 1
            start = np.array([part.start for part in box])
            centers[ranks[label]] = view.position(deepest + start)
    return centers
