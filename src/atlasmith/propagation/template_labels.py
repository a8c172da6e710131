"""Labels of the template, from the registered atlases, and their propagation to a subject."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from atlasmith.config import Config
from atlasmith.core.boxes import bounding_boxes
from atlasmith.core.grid import Array, Grid
from atlasmith.core.world import resample_labels
from atlasmith.io.exclusion import valid_voxels
from atlasmith.io.images import Image, read_grid, read_labels, write_image
from atlasmith.io.layout import Layout
from atlasmith.io.sidecars import write_sidecar
from atlasmith.io.tables import Subject, read_cohort, read_tsv, write_tsv
from atlasmith.io.transforms import read_composite
from atlasmith.training.device import cpu_if_memory_is_short, select_device


@cpu_if_memory_is_short
def label_template(config: Config) -> None:
    """Write the template's label probabilities and its most frequent labels, in template space.

    A probability is the fraction of atlases that have a label at a voxel, of those that aren't excluded
    there, or of all where all are. Probabilities are
    (X, Y, Z, labels), without background, in the order of the table beside them. The atlases' own labels are
    copied into the run's folder.

    Args:
        config: The run's config.
    """
    layout = config.layout
    atlases = [s for s in read_cohort(layout.cohort, passed="propagate") if s.role == "atlas"]
    grid, table = read_grid(layout.template_image), read_tsv(layout.labels)
    indices, votes = _registered_labels(config, atlases, grid, [int(row["index"]) for row in table])
    probabilities, labels = _vote(indices, votes, len(table))
    values = np.array([0, *(int(row["index"]) for row in table)])
    write_image(layout.template_probabilities, probabilities, grid)
    write_image(layout.template_labels, values[labels.cpu().numpy()], grid)
    write_tsv(layout.template_label_table, table, list(table[0]))
    describe = partial(
        write_sidecar,
        layout,
        grid=grid,
        reference=layout.template_image,
        sources=[
            *(atlas.labels for atlas in atlases if atlas.labels),
            *(layout.forward(atlas.id) for atlas in atlases),
        ],
    )
    describe(layout.template_labels, "The most frequent label of the registered atlases", Manual=False)
    describe(
        layout.template_probabilities,
        "Fraction of the registered atlases that have a label, one label per volume",
        LabelMap=[row["name"] for row in table],
    )


def _registered_labels(
    config: Config, atlases: Sequence[Subject], grid: Grid, values: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Resample the atlases' labels onto the template's grid.

    Returns:
        The index of each label (N, X, Y, Z), int16: 1 + its position in `values`, which are sorted, and 0 for
        the background and where an atlas is excluded. And how many atlases have a vote, (X, Y, Z).
    """
    layout, device = config.layout, select_device(config.device)
    ordered = torch.tensor(values, dtype=torch.int32, device=device)
    indices = torch.zeros(len(atlases), *grid.shape, dtype=torch.int16, device=device)
    excluded = []
    for atlas, index in zip(atlases, indices, strict=True):
        assert atlas.labels is not None  # the cohort's checks require them
        own, steps = read_labels(atlas.labels), read_composite(layout.forward(atlas.id))
        _copy_labels(layout, atlas, own)
        moved = resample_labels(own.data, own.grid, steps, grid, device).view(grid.shape)
        position = torch.searchsorted(ordered, moved).clamp(max=len(values) - 1)
        index.copy_(torch.where(ordered[position] == moved, position + 1, 0))
        if atlas.exclude is not None:
            mask = ~torch.from_numpy(valid_voxels(layout, atlas, steps, grid)).to(device)
            excluded.append((index, mask))
    votes = torch.full(grid.shape, len(atlases), dtype=torch.int32, device=device)
    for _, mask in excluded:
        votes -= mask.int()
    some = votes > 0
    for index, mask in excluded:
        index.masked_fill_(mask & some, 0)
    return indices, torch.where(some, votes, len(atlases))


def _vote(indices: Tensor, votes: Tensor, count: int) -> tuple[Array, Tensor]:
    """Compute the fraction of votes of each of `count` labels, and the most frequent one.

    A label is counted in its bounding box, so that time and memory hardly depend on the number of labels.

    Args:
        indices: Of the labels (N, X, Y, Z), see `_registered_labels`.
        votes: (X, Y, Z).
        count: Number of labels.

    Returns:
        Probabilities (X, Y, Z, count), float32, and the index (X, Y, Z) of the most frequent label, the first
        in a tie, 0 where the background is at least as frequent.
    """
    # Zeros that are never written take no memory.
    probabilities = np.zeros((count, *indices.shape[:0:-1]), dtype=np.float32).T
    winner, most = torch.zeros_like(votes), votes - (indices != 0).sum(0, dtype=votes.dtype)
    for index, box in bounding_boxes(indices):
        if index == 0:
            continue
        found = (indices[:, *box] == index).sum(0, dtype=votes.dtype)
        probabilities[..., index - 1][box] = (found / votes[box]).cpu().numpy()
        better = found > most[box]
        winner[box] = torch.where(better, index, winner[box])
        most[box] = torch.where(better, found, most[box])
    return probabilities, winner


def _copy_labels(layout: Layout, atlas: Subject, labels: Image) -> None:
    """Write an atlas's labels to the run's folder, in which a run is applied to new images on any machine."""
    assert atlas.labels is not None  # the cohort's checks require them
    path = layout.atlas_labels(atlas.id)
    write_image(path, labels.data, labels.grid, like=atlas.labels)
    write_sidecar(
        layout,
        path,
        "Manual labels of an atlas",
        grid=labels.grid,
        sources=[atlas.labels],
        reference=atlas.image,
        Manual=True,
    )


@cpu_if_memory_is_short
def propagate_from_template(config: Config, subject_id: str) -> None:
    """Write the template's labels in a subject's space.

    Args:
        config: The run's config.
        subject_id: Participant id without `sub-`.
    """
    layout, device = config.layout, select_device(config.device)
    subject = next(s for s in read_cohort(layout.cohort) if s.id == subject_id)
    native, labels = read_grid(subject.image), read_labels(layout.template_labels)
    steps = read_composite(layout.inverse(subject_id))
    moved = resample_labels(labels.data, labels.grid, steps, native, device)
    path = layout.segmentation(subject_id, "template")
    write_image(path, native.unsqueeze(moved.cpu().numpy()), native, like=subject.image)
    write_sidecar(
        layout,
        path,
        "Labels of the template in the scan's space",
        grid=native,
        sources=[layout.template_labels, layout.inverse(subject_id)],
        reference=subject.image,
        Manual=False,
    )
