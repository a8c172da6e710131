"""Propagate the atlases to one subject, through the template.

The maps subject -> template -> atlas are composed, and each atlas is sampled once. The subject's *fusion
grid* is its own grid, coarser if the config says so, cropped to the propagated labels and a margin.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from atlasmith.config import Config
from atlasmith.core.errors import AtlasmithError
from atlasmith.core.fields import resize_displacement
from atlasmith.core.grid import DisplacementField, Grid, Step
from atlasmith.core.sampling import MASK_THRESHOLD, half_shape
from atlasmith.core.world import displacement_to_field, transform_points, transform_points_each, world_points
from atlasmith.io.channels import ATLASES_OF_CHANNELS, EXCLUDES_REGIONS, present_channels, read_channels
from atlasmith.io.files import read_json
from atlasmith.io.images import Image, read_grid, read_labels, read_mask, write_image
from atlasmith.io.layout import Layout
from atlasmith.io.sidecars import is_skull_stripped, write_sidecar
from atlasmith.io.tables import Subject, atlases_for, read_cohort
from atlasmith.io.transforms import read_composite
from atlasmith.optimization import instance_objective, optimize
from atlasmith.propagation.resampling import (
    STRIDE,
    bounding_box,
    field_of_view_at,
    intensities_at,
    likely_extent,
    sample_atlas,
    to_labels,
)
from atlasmith.propagation.selection import select_atlases
from atlasmith.training.device import cpu_if_memory_is_short, select_device
from atlasmith.transforms import FORWARD


@cpu_if_memory_is_short
def propagate_subject(config: Config, subject_id: str, write_images: bool = True) -> dict[Path, Tensor]:
    """Write the labels and preprocessed intensities of the atlases in a subject's space, as 4-D stacks.

    These are all atlases of other participants, or the most similar ones where `fusion.atlas_selection` gives
    their number. An atlas gets them too, by a registration that didn't use its own labels. Labels are the
    argmax of linearly interpolated one-hot maps, intensities linear, of each channel that the subject has; 0
    of an atlas without it. Where the config excludes regions, so are masks of where atlases may be learned
    from. A subject whose field of view ends before the structures gets an empty label map.

    Args:
        config: The run's config.
        subject_id: Participant id without `sub-`.
        write_images: False to write the labels alone.

    Returns:
        The stacks (N, *shape) on the run's device, by the files that are for them.

    Raises:
        AtlasmithError: When the registration has failed so that no label reaches the subject's field of view,
            or there is no atlas for it.
    """
    layout, device = config.layout, select_device(config.device)
    subject = next(s for s in read_cohort(layout.cohort) if s.id == subject_id)
    usable = read_cohort(layout.cohort, passed="propagate")
    atlases = select_atlases(config, subject, atlases_for(subject, usable))
    if not atlases:
        raise AtlasmithError(f"sub-{subject_id}: no other participant has atlases. Add some.")
    grid = read_grid(subject.image).resampled(config.fusion.spacing)
    label_free = config.template.label_similarity and subject.role == "atlas"
    inverse = layout.inverse_label_free if label_free else layout.inverse
    to_template = read_composite(inverse(subject_id))
    from_template = [read_composite(layout.forward(atlas.id)) for atlas in atlases]
    labels = [_read_labels(atlas) for atlas in atlases]

    extent = likely_extent(labels, to_template, from_template, grid, config.fusion.margin, device)
    grid = grid.cropped(extent or _unlabelled_part(layout, subject_id, to_template, grid, device))
    points = transform_points(to_template, world_points(grid, device))
    reached = torch.zeros(grid.shape, dtype=torch.bool, device=device)
    count = len(_channels(layout, subject)) + (config.cohort.exclude is not None)
    label_maps = torch.empty(len(atlases), *grid.shape, dtype=torch.int32, device=device)
    image_maps = torch.empty(count, *label_maps.shape, device=device)
    steps = [[*forward, to_labels(own)] for forward, own in zip(from_template, labels, strict=True)]
    moved = transform_points_each(steps, points)
    for index, (atlas, own, voxels) in enumerate(zip(atlases, labels, moved, strict=True)):
        found = sample_atlas(own, _read_images(config, subject, atlas, grid), voxels, grid, device)
        label_maps[index], image_maps[:, index] = found.labels, found.images
        reached |= found.foreground
    box = bounding_box(reached, grid, config.fusion.margin)
    box = box or _unlabelled_part(layout, subject_id, to_template, grid, device)
    grid, label_maps, image_maps = grid.cropped(box), _cropped(label_maps, box), _cropped(image_maps, box)
    if config.register_.instance_optimization.pairwise_steps:
        maps = [[*to_template, *steps] for steps in from_template]
        _optimize_pairs(config, subject, atlases, labels, maps, grid, label_maps, image_maps)
    stacks = _stacks(config, subject, label_maps, image_maps)
    written = [*stacks] if write_images else [layout.propagated_labels(subject_id)]
    for path in written:
        _write(path, stacks[path], grid)
    _describe(config, subject, atlases, grid, inverse(subject_id), written)
    return {path: stack.view(-1, *grid.tensor_shape) for path, stack in stacks.items()}


def _channels(layout: Layout, subject: Subject) -> list[int]:
    """The channels that a subject has."""
    return [index for index, present in enumerate(present_channels(layout, subject)) if present]


def _cropped(maps: Tensor, box: Sequence[slice]) -> Tensor:
    """Crop maps (*any, X, Y, Z) to a box, within their memory, which is twice as large otherwise."""
    each = maps.view(-1, *maps.shape[-3:])
    shape = each[0][*box].shape
    result = maps.flatten()[: len(each) * math.prod(shape)].view(-1, *shape)
    for place, one in zip(result, each, strict=True):  # a map's place ends before the next map begins
        place.copy_(one[*box].clone())
    return result.view(*maps.shape[:-3], *shape)


def _stacks(config: Config, subject: Subject, labels: Tensor, images: Tensor) -> dict[Path, Tensor]:
    """The stacks (N, X, Y, Z) by file.

    labels: (N, X, Y, Z). images: (I, N, X, Y, Z), of `_read_images`.
    """
    layout = config.layout
    stacks = {layout.propagated_labels(subject.id): labels}
    for image, channel in zip(images, _channels(layout, subject), strict=False):
        stacks[layout.propagated_images(subject.id, layout.channels[channel])] = image
    if config.cohort.exclude is not None:
        stacks[layout.propagated_valid(subject.id)] = images[-1] <= 1 - MASK_THRESHOLD
    return stacks


def _write(path: Path, stack: Tensor, grid: Grid) -> None:
    """Write a stack (N, X, Y, Z); intensities, which are large and soon removed, with little compression."""
    level = 1 if stack.is_floating_point() else 4
    data = (stack.byte() if stack.dtype == torch.bool else stack).cpu().numpy()
    write_image(path, np.moveaxis(data, 0, -1), grid, compression=level)


def _describe(
    config: Config,
    subject: Subject,
    atlases: Sequence[Subject],
    grid: Grid,
    to_template: Path,
    written: Sequence[Path],
) -> None:
    """Write the sidecars of the propagated labels and images, of those that were written."""
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
        if layout.propagated_images(subject.id, channel) not in written:
            continue
        images = [layout.preprocessed(atlas.id, channel) for atlas in found]
        write_sidecar(
            layout,
            layout.propagated_images(subject.id, channel),
            "Normalized intensities of the atlases in the scan's space, one atlas per volume",
            sources=[*images, *transforms],
            skull_stripped=is_skull_stripped(images),
            **facts,
        )
    if layout.propagated_valid(subject.id) in written:
        write_sidecar(
            layout,
            layout.propagated_valid(subject.id),
            "1 where the atlases may be learned from, 0 where cohort.exclude says that they may not",
            sources=[*(layout.valid_mask(atlas.id) for atlas in atlases), *transforms],
            Type="ROI",
            **facts,
        )


def _unlabelled_part(
    layout: Layout, subject_id: str, to_template: Sequence[Step], grid: Grid, device: torch.device
) -> list[slice]:
    """Choose the part of a subject's grid that is segmented, as background, where no label reaches it.

    Raises:
        AtlasmithError: If its field of view lies outside the template's: the registration has failed.
    """
    coarse, template = grid.strided(STRIDE), Grid.from_dict(read_json(layout.grid))
    points = transform_points(to_template, world_points(coarse, device))
    look = f"Look at {layout.warped(subject_id)}"
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


def _read_images(config: Config, subject: Subject, atlas: Subject, grid: Grid) -> Image:
    """A stack of an atlas's channels, of those that the subject has, and of its excluded voxels if the config
    names any."""
    layout = config.layout
    found = read_channels(layout, atlas, layout.preprocessed, min(grid.tensor_spacing))
    data = found.data[_channels(layout, subject)]
    if config.cohort.exclude is not None:
        excluded = np.zeros((1, *found.grid.shape), np.float32)
        if atlas.exclude is not None:
            excluded[0, ~read_mask(layout.valid_mask(atlas.id)).data] = 1
        data = np.concatenate([data, excluded])
    return Image(np.moveaxis(data, 0, -1), found.grid)


def _optimize_pairs(
    config: Config,
    subject: Subject,
    atlases: Sequence[Subject],
    labels: Sequence[Image],
    maps: Sequence[Sequence[Step]],
    grid: Grid,
    label_maps: Tensor,
    image_maps: Tensor,
) -> None:
    """Improve each map from subject to atlas by instance optimization of the pair, and resample once more.

    maps: from the subject's world to each atlas's. label_maps (N, X, Y, Z) and image_maps (I, N, X, Y, Z):
    resampled by these; they are overwritten.
    """
    device = image_maps.device
    points = world_points(grid, device)
    own = intensities_at(_read_images(config, subject, subject, grid), points, grid)
    visible = field_of_view_at(read_grid(subject.image), points, grid)
    for index, (atlas, atlas_labels, steps) in enumerate(zip(atlases, labels, maps, strict=True)):
        mask = visible & field_of_view_at(atlas_labels.grid, transform_points(steps, points), grid)
        between = _pair_displacement(config, subject, atlas, grid, own, image_maps[:, index], mask)
        (voxels,) = transform_points_each([[between, *steps, to_labels(atlas_labels)]], points)
        found = sample_atlas(atlas_labels, _read_images(config, subject, atlas, grid), voxels, grid, device)
        label_maps[index], image_maps[:, index] = found.labels, found.images


def _pair_displacement(
    config: Config,
    subject: Subject,
    atlas: Subject,
    grid: Grid,
    fixed: Tensor,
    moving: Tensor,
    mask: Tensor,
) -> DisplacementField:
    """Register an atlas to a subject on `grid`, within a mask (X, Y, Z), from the identity.

    fixed, moving: (I, X, Y, Z), of `_read_images`.
    """
    layout = config.layout
    image, other, both = fixed.new_zeros(3, 1, len(layout.channels), *grid.shape)
    if config.cohort.exclude is not None:
        mask = mask & (torch.maximum(fixed[-1], moving[-1]) <= 1 - MASK_THRESHOLD)
    in_atlas = present_channels(layout, atlas)
    for index, channel in enumerate(_channels(layout, subject)):
        if in_atlas[channel]:
            for maps, data in ((image, fixed[index]), (other, moving[index]), (both, mask)):
                maps[0, channel] = data
    image, other, both = (maps.view(1, -1, *grid.tensor_shape) for maps in (image, other, both))
    objective = instance_objective(image, other, both, grid, **config.register_objective)
    settings, half = config.register_.instance_optimization, half_shape(grid.tensor_shape)
    start = objective.deformation.initial(image, half)
    found = optimize(
        objective,
        start,
        settings.pairwise_steps,
        settings.learning_rate,
        settings.optimizer.name,
        settings.optimizer.settings,
    )
    maps = objective.deformation.maps(found, objective.spacing(half), [FORWARD])
    return displacement_to_field(resize_displacement(maps[FORWARD], grid.tensor_shape)[0], grid)
