"""Propagate the atlases to one subject, through the template.

The maps subject -> template -> atlas are composed, and each atlas is sampled once. The subject's *fusion
grid* is its own grid, coarser if the config says so, cropped to the propagated labels and a margin.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from atlasmith.config import Config
from atlasmith.core.errors import AtlasmithError
from atlasmith.core.fields import exponentiate, resize_displacement
from atlasmith.core.grid import Array, DisplacementField, Grid, Step
from atlasmith.core.sampling import half_shape
from atlasmith.core.world import displacement_to_field, transform_points, transform_points_each, world_points
from atlasmith.io.files import write_json
from atlasmith.io.images import Image, read_antialiased, read_grid, read_labels, write_image
from atlasmith.io.layout import Layout
from atlasmith.io.tables import Subject, read_cohort
from atlasmith.io.transforms import read_composite
from atlasmith.propagation.resampling import (
    Atlas,
    bounding_box,
    field_of_view_at,
    intensities_at,
    likely_extent,
)
from atlasmith.propagation.selection import select_atlases
from atlasmith.training.instance_optimization import instance_objective, optimize


def propagate_subject(config: Config, subject_id: str) -> None:
    """Write the labels and preprocessed intensities of the atlases in a subject's space, as 4-D stacks.

    These are all atlases, or the most similar ones where `fusion.atlas_selection` gives their number. An
    atlas gets all others, by a registration that didn't use its own labels. Labels are the argmax of linearly
    interpolated one-hot maps, intensities linear.

    Args:
        config: The run's config.
        subject_id: Participant id without `sub-`.

    Raises:
        AtlasmithError: When no label reaches the subject's field of view.
    """
    layout = config.layout
    subjects = read_cohort(layout.cohort)
    subject = next(s for s in subjects if s.id == subject_id)
    atlases = select_atlases(config, subject, [s for s in subjects if s.role == "atlas" and s != subject])
    native = read_grid(subject.image)
    grid = native.resampled(config.fusion.spacing) if config.fusion.spacing else native
    label_free = config.template.label_similarity and subject.role == "atlas"
    inverse = layout.inverse_label_free if label_free else layout.inverse
    to_template = read_composite(inverse(subject_id))
    from_template = [read_composite(layout.forward(atlas.id)) for atlas in atlases]
    labels = [_read_labels(atlas) for atlas in atlases]

    extent = likely_extent(labels, to_template, from_template, grid, config.fusion.margin)
    if extent is None:
        raise _nothing_reached(layout, subject_id)
    grid = grid.cropped(extent)
    points = transform_points(to_template, world_points(grid))
    label_maps, image_maps, reached = [], [], np.zeros(grid.shape, dtype=bool)
    steps = [
        [*forward, np.linalg.inv(own.grid.affine)] for forward, own in zip(from_template, labels, strict=True)
    ]
    for atlas, own, voxels in zip(atlases, labels, transform_points_each(steps, points), strict=True):
        found = Atlas(own, _read_image(layout, atlas, grid)).sample(voxels, grid)
        label_maps.append(found[0])
        image_maps.append(found[1])
        reached |= found[2]
    box = bounding_box(reached, grid, config.fusion.margin)
    if box is None:
        raise _nothing_reached(layout, subject_id)
    grid = grid.cropped(box)
    label_maps, image_maps = ([data[*box] for data in maps] for maps in (label_maps, image_maps))
    if config.register_.instance_optimization.pairwise_steps:
        maps = [[*to_template, *steps] for steps in from_template]
        label_maps, image_maps = _optimize_pairs(config, subject, atlases, labels, maps, grid, image_maps)
    write_image(layout.propagated_labels(subject_id), np.stack(label_maps, axis=-1), grid)
    write_image(layout.propagated_images(subject_id), np.stack(image_maps, axis=-1), grid)
    write_json(
        layout.propagated_sidecar(subject_id),
        {
            "atlases": [atlas.id for atlas in atlases],
            "Interpolation": {"labels": "one-hot linear, argmax", "images": "linear", "times": 1},
            "PairwiseSteps": config.register_.instance_optimization.pairwise_steps,
            "SpatialReference": str(subject.image),
        },
    )


def _nothing_reached(layout: Layout, subject_id: str) -> AtlasmithError:
    return AtlasmithError(
        f"sub-{subject_id}: no atlas label lands in its field of view: its registration has failed. "
        f"Look at {layout.warped(subject_id)}, and at the image's header."
    )


def _read_labels(atlas: Subject) -> Image:
    assert atlas.labels is not None  # the cohort's checks require them
    return read_labels(atlas.labels)


def _read_image(layout: Layout, subject: Subject, grid: Grid) -> Image:
    return read_antialiased(layout.preprocessed(subject.id), min(grid.tensor_spacing))


def _optimize_pairs(
    config: Config,
    subject: Subject,
    atlases: Sequence[Subject],
    labels: Sequence[Image],
    maps: Sequence[Sequence[Step]],
    grid: Grid,
    images: Sequence[Array],
) -> tuple[list[Array], list[Array]]:
    """Improve each map from subject to atlas by instance optimization of the pair, and resample once more.

    maps: from the subject's world to each atlas's. images: (X, Y, Z) of each atlas, resampled by these.
    """
    layout, points = config.layout, world_points(grid)
    own = intensities_at(_read_image(layout, subject, grid), points, grid)
    visible = field_of_view_at(read_grid(layout.preprocessed(subject.id)), points, grid)
    label_maps, image_maps = [], []
    for atlas, atlas_labels, steps, image in zip(atlases, labels, maps, images, strict=True):
        own_atlas = Atlas(atlas_labels, _read_image(layout, atlas, grid))
        moved = transform_points(steps, points)
        mask = visible & field_of_view_at(atlas_labels.grid, moved, grid)
        between = _pair_displacement(config, grid, own, image, mask)
        voxels = transform_points([between, *steps, own_atlas.to_voxels], points)
        label_map, image_map, _ = own_atlas.sample(voxels, grid)
        label_maps.append(label_map)
        image_maps.append(image_map)
    return label_maps, image_maps


def _pair_displacement(
    config: Config, grid: Grid, fixed: Array, moving: Array, mask: Array
) -> DisplacementField:
    """Register a moving image to a fixed one, both (X, Y, Z) on `grid`, within a mask, from the identity."""
    image, other, both = (
        torch.from_numpy(grid.squeeze(data))[None, None].float() for data in (fixed, moving, mask)
    )
    objective = instance_objective(image, other, both, grid, **config.template.objective)
    settings = config.register_.instance_optimization
    start = torch.zeros(1, grid.ndim, *half_shape(grid.tensor_shape))
    velocity = optimize(objective, start, settings.pairwise_steps, settings.learning_rate)
    displacement = exponentiate(velocity, config.template.integration_steps)
    return displacement_to_field(resize_displacement(displacement, grid.tensor_shape)[0], grid)
