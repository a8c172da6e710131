"""The propagated atlases of one subject, read back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from atlasmith.core.errors import AtlasmithError
from atlasmith.core.grid import Array, Grid
from atlasmith.core.world import resample, resample_labels
from atlasmith.io.files import read_json
from atlasmith.io.images import read_image, read_labels
from atlasmith.io.layout import Layout
from atlasmith.io.tables import Subject, read_cohort
from atlasmith.preprocess.n4 import read_preprocessed


@dataclass(frozen=True, eq=False)
class Stack:
    """Atlases on a subject's fusion grid.

    labels: (N, *shape) integers. images: (N, *shape) in [0, 1]. target: (*shape), the subject's own image,
    normalized. Shapes are the grid's `tensor_shape`. atlases: their ids.
    """

    labels: Array
    images: Array
    target: Array
    grid: Grid
    atlases: Sequence[str] = ()


def read_stack(layout: Layout, subject: Subject) -> Stack:
    labels = read_labels(layout.propagated_labels(subject.id))
    images = read_image(layout.propagated_images(subject.id))
    grid = labels.grid
    own = read_preprocessed(subject.image, min(grid.tensor_spacing), n4=False)
    target = resample(torch.from_numpy(own.grid.squeeze(own.data))[None, None], own.grid, [], grid)[
        0, 0
    ].numpy()

    def atlas_first(data: Array) -> Array:
        return np.ascontiguousarray(np.moveaxis(grid.squeeze(data), -1, 0))

    voters = read_json(layout.propagated_sidecar(subject.id))["atlases"]
    return Stack(atlas_first(labels.data), atlas_first(images.data), target, grid, voters)


def disputed(stack: Stack) -> Array:
    """Flat indices of the voxels where the atlases disagree."""
    return np.flatnonzero((stack.labels != stack.labels[0]).any(axis=0))


def library_of(layout: Layout) -> list[Subject]:
    """The atlases, to be seen in the place of targets, labelled by all others."""
    atlases = [subject for subject in read_cohort(layout.cohort) if subject.role == "atlas"]
    if len(atlases) < 2:
        raise AtlasmithError(
            "Fusion learns from atlas to atlas, so it needs two or more. Drop votenet and evidence from "
            "fusion.methods, and set fusion.quality: false."
        )
    return atlases


def own_labels(subject: Subject, grid: Grid) -> Array:
    """An atlas's own labels (*shape) on its fusion grid, for training alone."""
    if subject.role != "atlas" or subject.labels is None:
        raise ValueError(f"sub-{subject.id} is no atlas: its labels aren't for training")
    own = read_labels(subject.labels)
    return resample_labels(own.data, own.grid, [], grid).numpy()
