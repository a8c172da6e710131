"""The candidate labels of the voxels where atlases disagree."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from atlasmith.core.grid import Array
from atlasmith.core.labels import bounding_boxes, label_index
from atlasmith.fusion.aligned import Box
from atlasmith.fusion.fuser import LabelProbabilities
from atlasmith.fusion.propagated import PropagatedAtlases

MAX_CANDIDATES = 6  # labels at a voxel: those with the most votes
MARGIN = 5  # around a label's box, which features depend on, voxels


@dataclass(frozen=True, eq=False)
class Candidates:
    """The candidate labels of M voxels of one target.

    Args:
        voxels: (M,), flat indices.
        labels: (M, K), those with most votes first, -1 where there are fewer.
        boxes: Each label with votes anywhere, in rising order, and its bounding box.
    """

    voxels: Array
    labels: Array
    boxes: list[tuple[int, Box]]


def find_candidates(atlases: PropagatedAtlases, voxels: Array) -> Candidates:
    """Find the labels with the most votes at some voxels.

    It goes label by label, so that memory is that of the voxels and of one label's box.

    Args:
        atlases: The propagated atlases.
        voxels: (M,), flat indices.

    Returns:
        At most `MAX_CANDIDATES` of each voxel; ties go to the smallest label.
    """
    boxes = [(value, box[1:]) for value, box in bounding_boxes(atlases.labels)]
    labels = np.full((len(voxels), MAX_CANDIDATES), -1, dtype=np.int64)
    if not len(voxels):
        return Candidates(voxels, labels, boxes)
    row = _row_map(voxels, atlases.labels.shape[1:])
    most = np.full(labels.shape, -1, dtype=np.float32)
    for value, box in boxes:
        votes = atlases.share(value, box)
        rows, votes = row[box][votes > 0], votes[votes > 0]
        rows, votes = rows[rows >= 0], votes[rows >= 0]
        least = most[rows].argmin(axis=1)
        better = votes > most[rows, least]
        most[rows[better], least[better]] = votes[better]
        labels[rows[better], least[better]] = value
    order = np.argsort(-most, axis=1, kind="stable")
    return Candidates(voxels, np.take_along_axis(labels, order, axis=1), boxes)


def candidate_positions(
    candidates: Candidates, shape: Sequence[int]
) -> Iterator[tuple[int, Box, Array, tuple[Array, Array]]]:
    """Find where each label is a candidate.

    Args:
        candidates: Of one target.
        shape: Of the target's grid.

    Yields:
        Each label, in rising order; its box with `MARGIN`; a mask (*box) of the voxels where the label is a
        candidate; and their rows and columns in `Candidates.labels`.
    """
    row = _row_map(candidates.voxels, shape)
    for value, box in candidates.boxes:
        wide = tuple(
            slice(max(s.start - MARGIN, 0), min(s.stop + MARGIN, n)) for s, n in zip(box, shape, strict=True)
        )
        rows = row[wide]
        known = rows >= 0
        columns = np.zeros((*rows.shape, MAX_CANDIDATES), dtype=bool)
        columns[known] = candidates.labels[rows[known]] == value
        mask = np.asarray(columns.any(axis=-1))
        yield value, wide, mask, (rows[mask], columns[mask].argmax(axis=-1))


def _row_map(voxels: Array, shape: Sequence[int]) -> Array:
    """The row (*shape) of each of the voxels at flat indices, -1 of others."""
    row = np.full(shape, -1, dtype=np.int64)
    row.ravel()[voxels] = np.arange(len(voxels))
    return row


def label_positions(labels: Array, values: Array) -> Array:
    """Return positions of labels among the sorted `values`; -1 of those that aren't among them."""
    return label_index(labels, values).astype(np.int64) - 1


def candidate_probabilities(
    atlases: PropagatedAtlases, candidates: Candidates, probabilities: Array
) -> LabelProbabilities:
    """Turn the probabilities of the candidates into those of each label on the grid.

    Args:
        atlases: The propagated atlases.
        candidates: Of all voxels where they disagree.
        probabilities: (M, K), of the candidates.

    Yields:
        Each label, in rising order, its box, and its probability there, which is 1 where all atlases have it.
    """
    shape = atlases.labels.shape[1:]
    agreed = np.ones(shape, dtype=bool)
    agreed.ravel()[candidates.voxels] = False
    order = np.argsort(candidates.labels, axis=None, kind="stable")
    ranked = candidates.labels.ravel()[order]
    for value, box in candidates.boxes:
        probability = ((atlases.labels[0][box] == value) & agreed[box]).astype(np.float32)
        entries = order[np.searchsorted(ranked, value) : np.searchsorted(ranked, value, "right")]
        voxels = candidates.voxels[entries // candidates.labels.shape[1]]
        places = np.unravel_index(voxels, shape)
        inside = tuple(place - s.start for place, s in zip(places, box, strict=True))
        probability[inside] = probabilities.ravel()[entries]
        yield value, box, probability
