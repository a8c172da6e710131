"""Labels of the template, from the registered atlases, and their propagation to a subject."""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from atlasmith.config import Config
from atlasmith.core.labels import label_index
from atlasmith.core.world import resample_labels
from atlasmith.io.exclusion import valid_voxels
from atlasmith.io.images import Image, read_grid, read_labels, write_image
from atlasmith.io.layout import Layout
from atlasmith.io.sidecars import write_sidecar
from atlasmith.io.tables import Subject, read_cohort, read_tsv, write_tsv
from atlasmith.io.transforms import read_composite


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
    grid = read_grid(layout.template_image)
    table = read_tsv(layout.labels)
    values = np.array([int(row["index"]) for row in table])
    counts = np.zeros((math.prod(grid.shape), len(values)), dtype=np.float32)
    valid = {
        atlas.id: valid_voxels(layout, atlas, read_composite(layout.forward(atlas.id)), grid).ravel()
        for atlas in atlases
        if atlas.exclude is not None
    }
    votes = len(atlases) - sum((~mask for mask in valid.values()), np.zeros(len(counts), dtype=int))
    everyone = votes == 0
    for atlas in atlases:
        assert atlas.labels is not None  # the cohort's checks require them
        own, steps = read_labels(atlas.labels), read_composite(layout.forward(atlas.id))
        _copy_labels(layout, atlas, own)
        moved = resample_labels(own.data, own.grid, steps, grid)
        index = label_index(moved.numpy().ravel(), values)
        if atlas.id in valid:
            index[~(valid[atlas.id] | everyone)] = 0
        labelled = np.flatnonzero(index)
        counts[labelled, index[labelled] - 1] += 1
    votes[everyone] = len(atlases)
    background = votes - counts.sum(axis=-1)
    labels = np.where(counts.max(axis=-1) > background, values[counts.argmax(axis=-1)], 0)
    counts /= votes[:, None].astype(np.float32)
    write_image(layout.template_probabilities, counts.reshape(*grid.shape, -1), grid)
    write_image(layout.template_labels, labels.reshape(grid.shape), grid)
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


def propagate_from_template(config: Config, subject_id: str) -> None:
    """Write the template's labels in a subject's space.

    Args:
        config: The run's config.
        subject_id: Participant id without `sub-`.
    """
    layout = config.layout
    subject = next(s for s in read_cohort(layout.cohort) if s.id == subject_id)
    native, labels = read_grid(subject.image), read_labels(layout.template_labels)
    moved = resample_labels(labels.data, labels.grid, read_composite(layout.inverse(subject_id)), native)
    path = layout.segmentation(subject_id, "template")
    write_image(path, native.unsqueeze(moved.numpy()), native, like=subject.image)
    write_sidecar(
        layout,
        path,
        "Labels of the template in the scan's space",
        grid=native,
        sources=[layout.template_labels, layout.inverse(subject_id)],
        reference=subject.image,
        Manual=False,
    )
