"""Read the atlases propagated to a subject."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from atlasmith.core.errors import AtlasmithError
from atlasmith.core.grid import Array, Grid
from atlasmith.core.world import resample, resample_labels
from atlasmith.io.files import read_json
from atlasmith.io.images import read_antialiased, read_image, read_labels
from atlasmith.io.layout import Layout
from atlasmith.io.tables import Subject, read_cohort


@dataclass(frozen=True, eq=False)
class PropagatedAtlases:
    """Atlases propagated to one subject, on its fusion grid.

    Args:
        labels: (N, *shape) integers; shape is the grid's `tensor_shape`.
        images: (N, *shape), in [0, 1].
        target: (*shape), the subject's own image, in [0, 1].
        grid: The fusion grid.
        ids: Of the N atlases.
    """

    labels: Array
    images: Array
    target: Array
    grid: Grid
    ids: Sequence[str] = ()


def read_propagated(layout: Layout, subject: Subject) -> PropagatedAtlases:
    """Read what the propagate stage wrote for a subject, and its own image on the same grid."""
    labels = read_labels(layout.propagated_labels(subject.id))
    images = read_image(layout.propagated_images(subject.id))
    grid = labels.grid
    own = read_antialiased(layout.preprocessed(subject.id), min(grid.tensor_spacing))
    target = resample(torch.from_numpy(own.grid.squeeze(own.data))[None, None], own.grid, [], grid)[
        0, 0
    ].numpy()

    def atlas_first(data: Array) -> Array:
        return np.ascontiguousarray(np.moveaxis(grid.squeeze(data), -1, 0))

    ids = read_json(layout.propagated_sidecar(subject.id))["atlases"]
    return PropagatedAtlases(atlas_first(labels.data), atlas_first(images.data), target, grid, ids)


def ambiguous_voxels(atlases: PropagatedAtlases) -> Array:
    """Return flat indices of the voxels where the atlases disagree."""
    return np.flatnonzero((atlases.labels != atlases.labels[0]).any(axis=0))


def read_atlases(layout: Layout) -> list[Subject]:
    """Read which subjects are atlases, each of which is segmented by all others.

    Raises:
        AtlasmithError: Where there are fewer than two.
    """
    atlases = [subject for subject in read_cohort(layout.cohort) if subject.role == "atlas"]
    if len(atlases) < 2:
        raise AtlasmithError(
            "Trained fusion methods and fusion.quality need two or more atlases. Remove trained methods from "
            "fusion.methods, and set fusion.quality: false."
        )
    return atlases


def manual_labels(subject: Subject, grid: Grid) -> Array:
    """Read an atlas's manual labels (*shape), resampled to its fusion grid.

    Raises:
        ValueError: Where the subject is no atlas, since the labels of others are for scoring alone.
    """
    if subject.role != "atlas" or subject.labels is None:
        raise ValueError(f"sub-{subject.id} is no atlas: its labels may not be used in training")
    own = read_labels(subject.labels)
    return resample_labels(own.data, own.grid, [], grid).numpy()
