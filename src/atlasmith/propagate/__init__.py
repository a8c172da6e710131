"""Stage `propagate`: the atlases come into one subject's space, through the template.

subject -> template -> atlas is composed, and each atlas is sampled once. The subject's *fusion grid* is its
own grid, coarser if the config says so, cut to the propagated labels and a margin.
"""

from __future__ import annotations

import numpy as np
import torch

from atlasmith.config import Config
from atlasmith.errors import AtlasmithError
from atlasmith.geometry import Array, Grid
from atlasmith.intensity import antialias, normalise
from atlasmith.io.files import write_json
from atlasmith.io.images import read_grid, read_image, read_labels, write_image
from atlasmith.io.tables import Subject, read_cohort
from atlasmith.io.transforms import read_composite
from atlasmith.naming import Layout
from atlasmith.warp import map_points, sample, sample_labels, to_voxels, world_points

__all__ = ["propagate"]


def propagate(config: Config, subject_id: str) -> None:
    """Write every atlas's labels and normalised intensities in the subject's space, as 4-D stacks.

    An atlas is given all atlases but itself. Labels are the argmax of linearly interpolated one-hot maps,
    intensities linear. Raises `AtlasmithError` when no label reaches the subject's field of view.
    """
    layout = config.layout
    subjects = read_cohort(layout.cohort)
    subject = next(s for s in subjects if s.id == subject_id)
    atlases = [s for s in subjects if s.role == "atlas" and s.id != subject_id]
    native = read_grid(subject.image)
    grid = native.resampled(config.fusion.spacing) if config.fusion.spacing else native
    hub = map_points(read_composite(layout.inverse(subject_id)), world_points(grid))

    stacks = [_pull_atlas(layout, atlas, hub, grid) for atlas in atlases]
    labels = np.stack([stack[0] for stack in stacks], axis=-1)
    images = np.stack([stack[1] for stack in stacks], axis=-1)
    box = _box(labels, grid, config.fusion.margin)
    if box is None:
        raise AtlasmithError(
            f"sub-{subject_id}: no atlas label lands in its field of view: its registration has failed. "
            f"Look at {layout.warped(subject_id)}, and at the image's header."
        )
    cropped = grid.cropped(box)
    write_image(layout.propagated_labels(subject_id), labels[tuple(box)], cropped)
    write_image(layout.propagated_images(subject_id), images[tuple(box)], cropped)
    write_json(
        layout.propagated_sidecar(subject_id),
        {
            "atlases": [atlas.id for atlas in atlases],
            "Interpolation": {"labels": "one-hot linear, argmax", "images": "linear", "times": 1},
            "SpatialReference": str(subject.image),
        },
    )


def _pull_atlas(layout: Layout, atlas: Subject, hub: torch.Tensor, grid: Grid) -> tuple[Array, Array]:
    """(labels, intensities), each (X, Y, Z) on `grid`; `hub`: the grid's points in the template's world."""
    assert atlas.labels is not None  # the cohort's checks saw to it
    image, labels = read_image(atlas.image), read_labels(atlas.labels)
    points = map_points(read_composite(layout.forward(atlas.id)), hub)
    voxels = to_voxels(points, image.grid, grid.tensor_shape)
    smooth = antialias(normalise(image.data), image.grid, min(grid.tensor_spacing))
    intensities = sample(torch.from_numpy(image.grid.squeeze(smooth))[None, None], voxels)[0, 0]
    moved = sample_labels(torch.from_numpy(labels.grid.squeeze(labels.data)), voxels)
    return grid.unsqueeze(moved.numpy()), grid.unsqueeze(intensities.numpy())


def _box(labels: Array, grid: Grid, margin: float) -> list[slice] | None:
    """The bounding box of the labels (X, Y, Z, N) and `margin` mm; None where there are no labels."""
    occupied = np.asarray(labels.any(axis=-1))
    box = []
    for axis in range(3):
        index = np.flatnonzero(occupied.any(axis=tuple(other for other in range(3) if other != axis)))
        if index.size == 0:
            return None
        pad = int(np.ceil(margin / grid.spacing[axis]))
        box.append(slice(max(0, int(index[0]) - pad), min(grid.shape[axis], int(index[-1]) + 1 + pad)))
    return box
