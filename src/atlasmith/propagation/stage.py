"""Propagate the atlases to one subject, through the template.

The maps subject -> template -> atlas are composed, and each atlas is sampled once. The subject's *fusion
grid* is its own grid, coarser if the config says so, cropped to the propagated labels and a margin.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from atlasmith.config import Config
from atlasmith.core.errors import AtlasmithError
from atlasmith.core.fields import exponentiate, resize_displacement
from atlasmith.core.grid import Array, DisplacementField, Grid, Step
from atlasmith.core.sampling import MASK_THRESHOLD, half_shape
from atlasmith.core.world import displacement_to_field, transform_points, transform_points_each, world_points
from atlasmith.io.channels import ATLASES_OF_CHANNELS, EXCLUDES_REGIONS, present_channels, read_channels
from atlasmith.io.files import read_json
from atlasmith.io.images import Image, read_grid, read_labels, read_mask, write_image
from atlasmith.io.layout import Layout
from atlasmith.io.sidecars import is_skull_stripped, write_sidecar
from atlasmith.io.tables import Subject, atlases_for, read_cohort
from atlasmith.io.transforms import read_composite
from atlasmith.propagation.resampling import (
    STRIDE,
    Atlas,
    bounding_box,
    field_of_view_at,
    intensities_at,
    likely_extent,
)
from atlasmith.propagation.selection import select_atlases
from atlasmith.training.instance_optimization import instance_objective, optimize


def propagate_subject(config: Config, subject_id: str, compression: int = 1) -> None:
    """Write the labels and preprocessed intensities of the atlases in a subject's space, as 4-D stacks.

    These are all atlases of other participants, or the most similar ones where `fusion.atlas_selection` gives
    their number. An atlas gets them too, by a registration that didn't use its own labels. Labels are the
    argmax of linearly interpolated one-hot maps, intensities linear, of each channel that the subject has; 0
    of an atlas without it. Where the config excludes regions, so are masks of where atlases may be learned
    from. A subject whose field of view ends before the structures gets an empty label map.

    Args:
        config: The run's config.
        subject_id: Participant id without `sub-`.
        compression: Level of gzip of the intensities, which are large and soon removed; 0: none.

    Raises:
        AtlasmithError: When the registration has failed so that no label reaches the subject's field of view,
            or there is no atlas for it.
    """
    layout = config.layout
    subject = next(s for s in read_cohort(layout.cohort) if s.id == subject_id)
    usable = read_cohort(layout.cohort, passed="propagate")
    atlases = select_atlases(config, subject, atlases_for(subject, usable))
    if not atlases:
        raise AtlasmithError(f"sub-{subject_id}: no other participant has atlases. Add some.")
    native = read_grid(subject.image)
    grid = native.resampled(config.fusion.spacing) if config.fusion.spacing else native
    label_free = config.template.label_similarity and subject.role == "atlas"
    inverse = layout.inverse_label_free if label_free else layout.inverse
    to_template = read_composite(inverse(subject_id))
    from_template = [read_composite(layout.forward(atlas.id)) for atlas in atlases]
    labels = [_read_labels(atlas) for atlas in atlases]

    extent = likely_extent(labels, to_template, from_template, grid, config.fusion.margin)
    grid = grid.cropped(extent or _unlabelled_part(layout, subject_id, to_template, grid))
    points = transform_points(to_template, world_points(grid))
    label_maps, image_maps, reached = [], [], np.zeros(grid.shape, dtype=bool)
    steps = [
        [*forward, np.linalg.inv(own.grid.affine)] for forward, own in zip(from_template, labels, strict=True)
    ]
    for atlas, own, voxels in zip(atlases, labels, transform_points_each(steps, points), strict=True):
        found = Atlas(own, _read_images(config, subject, atlas, grid)).sample(voxels, grid)
        label_maps.append(found[0])
        image_maps.append(found[1])
        reached |= found[2]
    box = bounding_box(reached, grid, config.fusion.margin)
    box = box or _unlabelled_part(layout, subject_id, to_template, grid)
    grid = grid.cropped(box)
    label_maps, image_maps = [data[*box] for data in label_maps], [data[:, *box] for data in image_maps]
    if config.register_.instance_optimization.pairwise_steps:
        maps = [[*to_template, *steps] for steps in from_template]
        label_maps, image_maps = _optimize_pairs(config, subject, atlases, labels, maps, grid, image_maps)
    _write(config, subject, label_maps, image_maps, grid, compression)
    _describe(config, subject, atlases, grid, inverse(subject_id))


def _channels(layout: Layout, subject: Subject) -> list[int]:
    """The channels that a subject has."""
    return [index for index, present in enumerate(present_channels(layout, subject)) if present]


def _write(
    config: Config,
    subject: Subject,
    labels: Sequence[Array],
    images: Sequence[Array],
    grid: Grid,
    compression: int,
) -> None:
    """Write the stacks of labels (X, Y, Z) and images (I, X, Y, Z), of `_read_images`, of each atlas."""
    layout = config.layout
    write_image(layout.propagated_labels(subject.id), np.stack(labels, axis=-1), grid)
    for index, channel in enumerate(_channels(layout, subject)):
        path = layout.propagated_images(subject.id, layout.channels[channel])
        stack = np.stack([image[index] for image in images], axis=-1)
        write_image(path, stack, grid, compression=compression)
    if config.cohort.exclude is not None:
        valid = np.stack([image[-1] <= 1 - MASK_THRESHOLD for image in images], axis=-1)
        write_image(layout.propagated_valid(subject.id), valid.astype(np.uint8), grid)


def _describe(
    config: Config, subject: Subject, atlases: Sequence[Subject], grid: Grid, to_template: Path
) -> None:
    """Write the sidecars of the propagated labels and images."""
    layout = config.layout
    transforms = [to_template, *(layout.forward(atlas.id) for atlas in atlases)]
    owners = {
        layout.channels[index]: [a for a in atlases if present_channels(layout, a)[index]]
        for index in _channels(layout, subject)
    }
    facts: dict[str, Any] = {
        "grid": grid,
        "reference": subject.image,
        "atlases": [atlas.id for atlas in atlases],
        "Interpolation": {"labels": "one-hot linear, argmax", "images": "linear", "times": 1},
        "PairwiseSteps": config.register_.instance_optimization.pairwise_steps,
    }
    if len(layout.channels) > 1:
        facts[ATLASES_OF_CHANNELS] = {channel: [a.id for a in found] for channel, found in owners.items()}
    if config.cohort.exclude is not None:
        facts[EXCLUDES_REGIONS] = True
    write_sidecar(
        layout,
        layout.propagated_labels(subject.id),
        "Labels of the atlases in the scan's space, one atlas per volume",
        sources=[*(atlas.labels for atlas in atlases if atlas.labels), *transforms],
        **facts,
    )
    for channel, found in owners.items():
        images = [layout.preprocessed(atlas.id, channel) for atlas in found]
        write_sidecar(
            layout,
            layout.propagated_images(subject.id, channel),
            "Normalized intensities of the atlases in the scan's space, one atlas per volume",
            sources=[*images, *transforms],
            skull_stripped=is_skull_stripped(images),
            **facts,
        )
    if config.cohort.exclude is not None:
        write_sidecar(
            layout,
            layout.propagated_valid(subject.id),
            "1 where the atlases may be learned from, 0 where cohort.exclude says that they may not",
            sources=[*(layout.valid_mask(atlas.id) for atlas in atlases), *transforms],
            Type="ROI",
            **facts,
        )


def _unlabelled_part(layout: Layout, subject_id: str, to_template: Sequence[Step], grid: Grid) -> list[slice]:
    """Choose the part of a subject's grid that is segmented, as background, where no label reaches it.

    Raises:
        AtlasmithError: If its field of view lies outside the template's: the registration has failed.
    """
    coarse, template = grid.strided(STRIDE), Grid.from_dict(read_json(layout.grid))
    points, look = transform_points(to_template, world_points(coarse)), f"Look at {layout.warped(subject_id)}"
    if not field_of_view_at(template, points, coarse).any():
        raise AtlasmithError(
            f"sub-{subject_id}: no atlas label lands in its field of view: its registration has failed. "
            f"{look}, and at the image's header."
        )
    print(
        f"propagate: sub-{subject_id}: no atlas label lands in its field of view, so that its segmentation "
        f"is empty. {look}: the image may end before the structures.",
        flush=True,
    )
    return [slice(max(0, n // 2 - STRIDE), n // 2 + STRIDE) for n in grid.shape]


def _read_labels(atlas: Subject) -> Image:
    assert atlas.labels is not None  # the cohort's checks require them
    return read_labels(atlas.labels)


def _read_images(config: Config, subject: Subject, atlas: Subject, grid: Grid) -> list[Image]:
    """An atlas's channels, of those that the subject has, and its excluded voxels if the config names any."""
    layout = config.layout
    found = read_channels(layout, atlas, layout.preprocessed, min(grid.tensor_spacing))
    images = [found.data[channel] for channel in _channels(layout, subject)]
    if config.cohort.exclude is not None:
        excluded = np.zeros(found.grid.shape, np.float32)
        if atlas.exclude is not None:
            excluded[~read_mask(layout.valid_mask(atlas.id)).data] = 1
        images.append(excluded)
    return [Image(data, found.grid) for data in images]


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

    maps: from the subject's world to each atlas's. images: (I, X, Y, Z) of each atlas, resampled by these.
    """
    points = world_points(grid)
    own = np.stack([intensities_at(i, points, grid) for i in _read_images(config, subject, subject, grid)])
    visible = field_of_view_at(read_grid(subject.image), points, grid)
    label_maps, image_maps = [], []
    for atlas, atlas_labels, steps, images_of_atlas in zip(atlases, labels, maps, images, strict=True):
        own_atlas = Atlas(atlas_labels, _read_images(config, subject, atlas, grid))
        moved = transform_points(steps, points)
        mask = visible & field_of_view_at(atlas_labels.grid, moved, grid)
        between = _pair_displacement(config, subject, atlas, grid, own, images_of_atlas, mask)
        voxels = transform_points([between, *steps, own_atlas.to_voxels], points)
        label_map, image_map, _ = own_atlas.sample(voxels, grid)
        label_maps.append(label_map)
        image_maps.append(image_map)
    return label_maps, image_maps


def _pair_displacement(
    config: Config,
    subject: Subject,
    atlas: Subject,
    grid: Grid,
    fixed: Array,
    moving: Array,
    mask: Array,
) -> DisplacementField:
    """Register an atlas to a subject on `grid`, within a mask (X, Y, Z), from the identity.

    fixed, moving: (I, X, Y, Z), of `_read_images`.
    """
    layout, channels = config.layout, _channels(config.layout, subject)
    shape = 1, len(layout.channels), *grid.tensor_shape
    image, other, both = torch.zeros(shape), torch.zeros(shape), torch.zeros(shape)
    if config.cohort.exclude is not None:
        mask = mask & (np.maximum(fixed[-1], moving[-1]) <= 1 - MASK_THRESHOLD)
    in_atlas = present_channels(layout, atlas)
    for index, channel in enumerate(channels):
        if in_atlas[channel]:
            for maps, data in ((image, fixed[index]), (other, moving[index]), (both, mask)):
                maps[0, channel] = torch.from_numpy(grid.squeeze(data))
    objective = instance_objective(image, other, both, grid, **config.objective)
    settings = config.register_.instance_optimization
    start = torch.zeros(1, grid.ndim, *half_shape(grid.tensor_shape))
    velocity = optimize(objective, start, settings.pairwise_steps, settings.learning_rate)
    displacement = exponentiate(velocity, config.template.integration_steps)
    return displacement_to_field(resize_displacement(displacement, grid.tensor_shape)[0], grid)
