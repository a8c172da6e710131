"""Labels of the template, from the registered atlases, and their propagation to a subject."""

from __future__ import annotations

import math

import numpy as np

from atlasmith.config import Config
from atlasmith.core.labels import label_index
from atlasmith.core.world import resample_labels
from atlasmith.io.images import read_grid, read_labels, write_image
from atlasmith.io.tables import read_cohort, read_tsv, write_tsv
from atlasmith.io.transforms import read_composite


def label_template(config: Config) -> None:
    """Write the template's label probabilities and its most frequent labels, in template space.

    A probability is the fraction of atlases that have a label at a voxel. Probabilities are
    (X, Y, Z, labels), without background, in the order of the table beside them.

    Args:
        config: The run's config.
    """
    layout = config.layout
    atlases = [s for s in read_cohort(layout.cohort) if s.role == "atlas"]
    grid = read_grid(layout.template_image)
    table = read_tsv(layout.labels)
    values = np.array([int(row["index"]) for row in table])
    counts = np.zeros((math.prod(grid.shape), len(values)), dtype=np.float32)
    for atlas in atlases:
        assert atlas.labels is not None  # the cohort's checks require them
        own, steps = read_labels(atlas.labels), read_composite(layout.forward(atlas.id))
        moved = resample_labels(own.data, own.grid, steps, grid)
        index = label_index(moved.numpy().ravel(), values)
        labelled = np.flatnonzero(index)
        counts[labelled, index[labelled] - 1] += 1
    background = len(atlases) - counts.sum(axis=-1)
    labels = np.where(counts.max(axis=-1) > background, values[counts.argmax(axis=-1)], 0)
    counts /= len(atlases)
    write_image(layout.template_probabilities, counts.reshape(*grid.shape, -1), grid)
    write_image(layout.template_labels, labels.reshape(grid.shape), grid)
    write_tsv(layout.template_label_table, table, list(table[0]))


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
