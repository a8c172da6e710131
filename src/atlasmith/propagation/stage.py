"""Stage `propagate`: the atlases come into one subject's space, through the template.

subject -> template -> atlas is composed, with the pair's own refinement if the config asks for one, and each
atlas is sampled once. The subject's *fusion grid* is its
own grid, coarser if the config says so, cut to the propagated labels and a margin.

The template gets its own labels from the atlases too, and gives them to whoever was registered to it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from atlasmith.config import Config
from atlasmith.core.errors import AtlasmithError
from atlasmith.core.fields import exponentiate, resize_displacement
from atlasmith.core.grid import Array, DisplacementField, Grid
from atlasmith.core.labels import label_index
from atlasmith.core.sampling import half_shape, sample, sample_labels
from atlasmith.core.world import (
    displacement_to_field,
    inside,
    resample_labels,
    to_voxels,
    transform_points,
    world_points,
)
from atlasmith.io.files import write_json
from atlasmith.io.images import Image, read_grid, read_image, read_labels, write_image
from atlasmith.io.tables import Subject, read_cohort, read_tsv, write_tsv
from atlasmith.io.transforms import read_composite
from atlasmith.preprocess.n4 import read_preprocessed
from atlasmith.training import instance_optimization

__all__ = ["label_template", "propagate", "propagate_from_template", "select_atlases"]

Seen = tuple[torch.Tensor, torch.Tensor]  # an image, and where it has data; each (1, 1, *shape)


def propagate(config: Config, subject_id: str) -> None:
    """Write every atlas's labels and normalized intensities in the subject's space, as 4-D stacks.

    These are all, or those that look most like the subject where the config asks for so many. An atlas is
    given all atlases but itself, by a registration that hasn't seen its own labels. Where the
    config asks for it, each pair's map goes on from the template's by instance optimization. Labels are the
    argmax of linearly interpolated one-hot maps, intensities linear. Raises `AtlasmithError` when no
    label reaches the subject's field of view.
    """
    layout = config.layout
    subjects = read_cohort(layout.cohort)
    subject = next(s for s in subjects if s.id == subject_id)
    atlases = select_atlases(config, subject, [s for s in subjects if s.role == "atlas" and s != subject])
    native = read_grid(subject.image)
    grid = native.resampled(config.fusion.spacing) if config.fusion.spacing else native
    blind = config.template.label_similarity and subject.role == "atlas"
    to_hub = read_composite(layout.inverse_label_free(subject_id) if blind else layout.inverse(subject_id))

    from_hub = [read_composite(layout.forward(atlas.id)) for atlas in atlases]
    theirs = [_labels_of(atlas) for atlas in atlases]
    hub = transform_points(to_hub, world_points(grid))
    reached = np.zeros(grid.shape, dtype=bool)
    for labels, steps in zip(theirs, from_hub, strict=True):
        reached |= _reached(labels, transform_points(steps, hub), grid)
    box = _box(reached, grid, config.fusion.margin)
    if box is None:
        raise AtlasmithError(
            f"sub-{subject_id}: no atlas label lands in its field of view: its registration has failed. "
            f"Look at {layout.warped(subject_id)}, and at the image's header."
        )
    grid = grid.cropped(box)
    places = world_points(grid)
    hub = transform_points(to_hub, places)
    own = (
        _intensities_at(_prepared(subject, grid), places, grid)
        if config.register_.instance_optimization.pairwise_steps
        else None
    )
    pulled = []
    for atlas, labels, steps in zip(atlases, theirs, from_hub, strict=True):
        points, picture = transform_points(steps, hub), _prepared(atlas, grid)
        image, seen = _intensities_at(picture, points, grid)
        if own is not None:
            points = transform_points([_between(config, grid, own, (image, seen)), *to_hub, *steps], places)
            image, _ = _intensities_at(picture, points, grid)
        pulled.append((_labels_at(labels, points, grid), grid.unsqueeze(image[0, 0].numpy())))
    all_labels, all_images = (np.stack(maps, axis=-1) for maps in zip(*pulled, strict=True))
    write_image(layout.propagated_labels(subject_id), all_labels, grid)
    write_image(layout.propagated_images(subject_id), all_images, grid)
    write_json(
        layout.propagated_sidecar(subject_id),
        {
            "atlases": [atlas.id for atlas in atlases],
            "Interpolation": {"labels": "one-hot linear, argmax", "images": "linear", "times": 1},
            "PairwiseSteps": config.register_.instance_optimization.pairwise_steps,
            "SpatialReference": str(subject.image),
        },
    )


def select_atlases(config: Config, subject: Subject, atlases: Sequence[Subject]) -> Sequence[Subject]:
    """As many atlases as `fusion.atlas_selection` says, in their order: those whose warped images correlate most with
    the subject's around the template's labels (Aljabar et al. 2009, doi:10.1016/j.neuroimage.2009.02.018).

    Nothing is resampled for that: the images lie in the template's space as registration left them.
    """
    layout, count = config.layout, config.fusion.atlas_selection
    if count is None or count >= len(atlases):
        return atlases
    labels = read_labels(layout.template_labels)
    box = _box(labels.data != 0, labels.grid, config.fusion.margin) or [slice(None)] * 3

    def seen(person: Subject) -> Array:
        data = read_image(layout.warped(person.id)).data[*box].ravel()
        centered: Array = data - data.mean()
        return centered / max(float(np.linalg.norm(centered)), np.finfo(np.float32).tiny)

    own = seen(subject)
    likeness = [float(seen(atlas) @ own) for atlas in atlases]
    chosen = sorted(np.argsort(likeness)[-count:].tolist())
    return [atlases[k] for k in chosen]


def label_template(config: Config) -> None:
    """Write the template's label probabilities, the share of the atlases that have a label at a voxel, and
    the most frequent label; on the template's grid, in the common space.

    Probabilities are (X, Y, Z, labels), without background, in the order of the table beside them.
    """
    layout = config.layout
    atlases = [s for s in read_cohort(layout.cohort) if s.role == "atlas"]
    grid = read_grid(layout.template_image)
    points = world_points(grid)
    table = read_tsv(layout.labels)
    values = np.array([int(row["index"]) for row in table])
    counts = np.zeros((math.prod(grid.shape), len(values)), dtype=np.float32)
    for atlas in atlases:
        steps = read_composite(layout.forward(atlas.id))
        moved = _labels_at(_labels_of(atlas), transform_points(steps, points), grid)
        place = label_index(moved.ravel(), values)
        labelled = np.flatnonzero(place)
        counts[labelled, place[labelled] - 1] += 1
    unlabelled = len(atlases) - counts.sum(axis=-1)
    most = counts.argmax(axis=-1)
    found = np.where(counts.max(axis=-1) > unlabelled, values[most], 0)
    counts /= len(atlases)
    write_image(layout.template_probabilities, counts.reshape(*grid.shape, -1), grid)
    write_image(layout.template_labels, found.reshape(grid.shape), grid)
    write_tsv(layout.template_label_table, table, list(table[0]))


def propagate_from_template(config: Config, subject_id: str) -> None:
    """Write the template's labels in the subject's space, argmax of linearly interpolated one-hot maps."""
    layout = config.layout
    subject = next(s for s in read_cohort(layout.cohort) if s.id == subject_id)
    native, labels = read_grid(subject.image), read_labels(layout.template_labels)
    moved = resample_labels(labels.data, labels.grid, read_composite(layout.inverse(subject_id)), native)
    path = layout.segmentation(subject_id, "template")
    write_image(path, native.unsqueeze(moved.numpy()), native, like=subject.image)


def _labels_of(atlas: Subject) -> Image:
    assert atlas.labels is not None  # the cohort's checks saw to it
    return read_labels(atlas.labels)


def _labels_at(labels: Image, points: torch.Tensor, grid: Grid) -> Array:
    """Labels (X, Y, Z) on `grid`, whose voxels lie at `points` of the labels' world."""
    voxels = to_voxels(points, labels.grid, grid.tensor_shape)
    moved = sample_labels(torch.from_numpy(labels.grid.squeeze(labels.data)), voxels)
    return grid.unsqueeze(moved.numpy())


def _reached(labels: Image, points: torch.Tensor, grid: Grid) -> Array:
    """Where labels land, (X, Y, Z): wherever `_labels_at` has one, and hardly beyond."""
    voxels = to_voxels(points, labels.grid, grid.tensor_shape)
    occupied = torch.from_numpy(labels.grid.squeeze(labels.data) != 0).float()
    return grid.unsqueeze((sample(occupied[None, None], voxels)[0, 0] > 0.5).numpy())


def _prepared(subject: Subject, grid: Grid) -> Image:
    return read_preprocessed(subject.image, min(grid.tensor_spacing), n4=False)


def _intensities_at(image: Image, points: torch.Tensor, grid: Grid) -> Seen:
    """The image on `grid`, whose voxels lie at `points` of the image's world."""
    voxels = to_voxels(points, image.grid, grid.tensor_shape)
    moved = sample(torch.from_numpy(image.grid.squeeze(image.data))[None, None], voxels)
    return moved, inside(voxels.movedim(1, -1), image.grid.tensor_shape)[:, None].float()


def _between(config: Config, grid: Grid, fixed: Seen, moving: Seen) -> DisplacementField:
    """The displacement that brings a moving image to a fixed one, all on `grid`."""
    (image, mask), (other, seen) = fixed, moving
    judge = instance_optimization.instance_objective(config, grid, image, other, mask * seen)
    start = torch.zeros(1, grid.ndim, *half_shape(grid.tensor_shape))
    settings = config.register_.instance_optimization
    velocity = instance_optimization.optimize(judge, start, settings.pairwise_steps, settings.learning_rate)
    displacement = exponentiate(velocity, config.template.integration_steps)
    return displacement_to_field(resize_displacement(displacement, grid.tensor_shape)[0], grid)


def _box(occupied: Array, grid: Grid, margin: float) -> list[slice] | None:
    """The bounding box of what is occupied (X, Y, Z) and `margin` mm; None where nothing is."""
    box = []
    for axis in range(3):
        index = np.flatnonzero(occupied.any(axis=tuple(other for other in range(3) if other != axis)))
        if index.size == 0:
            return None
        pad = int(np.ceil(margin / grid.spacing[axis]))
        box.append(slice(max(0, int(index[0]) - pad), min(grid.shape[axis], int(index[-1]) + 1 + pad)))
    return box
