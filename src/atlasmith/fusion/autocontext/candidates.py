"""The candidate labels of the voxels where atlases disagree."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from atlasmith.core.boxes import bounding_boxes
from atlasmith.core.chunks import at_once
from atlasmith.fusion.aligned import AlignedAtlases, Box
from atlasmith.fusion.fuser import LabelProbabilities
from atlasmith.fusion.propagated import ambiguous_voxels

MAX_CANDIDATES = 6  # labels at a voxel: those with the most votes
NO_LABEL = -1
CPU_VALUES, GPU_VALUES = 2**20, 2**24  # of the atlases at some voxels, at a time


@dataclass(frozen=True, eq=False)
class Candidates:
    """The candidate labels of the M voxels of one target where atlases disagree, and the votes for them.

    A vote is for a label at one of the voxels, and has the share of the atlases that it is from. There are E
    votes, those for the same label one after the other, which may be more than the candidates.

    Args:
        voxels: (M,), flat indices.
        places: (d, M), indices along each axis.
        labels: (M, K), those with most votes first, -1 where there are fewer.
        agreed: (*shape), the label that all atlases have, -1 at the M voxels.
        boxes: Each label with votes anywhere, in rising order, its bounding box, and its part of the E votes.
        rows: (E,), the row of a vote's voxel, in rising order for each label.
        vote_labels: (E,), the label of a vote.
        slots: (E,), the flat index of a vote in (M, K), M K for a label that isn't among the candidates.
        shares: (E,), of the atlases.
    """

    voxels: Tensor
    places: Tensor
    labels: Tensor
    agreed: Tensor
    boxes: list[tuple[int, Box, slice]]
    rows: Tensor
    vote_labels: Tensor
    slots: Tensor
    shares: Tensor

    def at_votes(self, values: Tensor) -> Tensor:
        """Return the values (E,) of the candidates (M, K) at the votes; 0 for labels that are none."""
        return F.pad(values.flatten(), [0, 1])[self.slots]


def find_candidates(atlases: AlignedAtlases) -> Candidates:
    """Find the labels with the most votes where atlases disagree.

    Args:
        atlases: The propagated atlases.

    Returns:
        At most `MAX_CANDIDATES` of each voxel; ties go to the smallest label.
    """
    voxels = ambiguous_voxels(atlases)
    keys = _sorted_votes(atlases, voxels)
    votes = torch.nonzero(keys.flatten())[:, 0]
    labels, counts = _label_and_count(keys.flatten()[votes])
    labels, order = labels.sort(stable=True)
    rows, columns = votes[order] // keys.shape[1], votes[order] % keys.shape[1]
    slots = rows * MAX_CANDIDATES + columns
    slots = slots.masked_fill(columns >= MAX_CANDIDATES, len(voxels) * MAX_CANDIDATES)
    first = F.pad(keys[:, :MAX_CANDIDATES], [0, max(MAX_CANDIDATES - keys.shape[1], 0)])
    boxes = bounding_boxes(atlases.labels)
    starts = torch.searchsorted(labels, torch.tensor([value for value, _ in boxes]).to(labels)).tolist()
    parts = map(slice, starts, [*starts[1:], len(labels)])
    agreed = atlases.labels[0].clone()
    agreed.view(-1)[voxels] = NO_LABEL
    total = len(atlases.labels) if atlases.votes is None else at_voxels(atlases.votes, voxels).sum(0)[rows]
    return Candidates(
        voxels,
        torch.stack(torch.unravel_index(voxels, agreed.shape)),
        torch.where(first > 0, _label_and_count(first)[0], NO_LABEL),
        agreed,
        [(value, box, part) for (value, box), part in zip(boxes, parts, strict=True)],
        rows,
        labels,
        slots,
        counts[order] / total,
    )


def voxels_at_once(atlases: AlignedAtlases) -> int:
    """Return at how many voxels to compare all atlases at a time."""
    return max(1, at_once(atlases.labels.device, CPU_VALUES, GPU_VALUES) // len(atlases.labels))


def at_voxels(maps: Tensor, voxels: Tensor) -> Tensor:
    """Return the values (N, M) of maps (N, *shape) at flat indices (M,)."""
    return maps.flatten(1).index_select(1, voxels)


def _sorted_votes(atlases: AlignedAtlases, voxels: Tensor) -> Tensor:
    """A number (M, most) for each label with votes at some voxels, in falling order, and then zeros.

    It is larger the more votes there are, and in a tie the smaller the label, see `_label_and_count`. most:
    The largest number of labels at a voxel.
    """
    keys = []
    for some in voxels.split(voxels_at_once(atlases)):
        labels, order = at_voxels(atlases.labels, some).T.sort(dim=1)
        last = F.pad(labels[:, 1:] != labels[:, :-1], [0, 1], value=True)  # of the same labels
        votes = torch.ones_like(labels)
        if atlases.votes is not None:
            votes = at_voxels(atlases.votes, some).T.int().gather(1, order)
        total = votes.cumsum(dim=1).masked_fill_(~last, 0)
        counts = total - F.pad(total[:, :-1].cummax(dim=1).values, [1, 0])
        key = (counts << 32).sub_(labels).masked_fill_(~last, 0).sort(dim=1, descending=True).values
        keys.append(key[:, : int(key.any(dim=0).sum())].clone())
    most = max(key.shape[1] for key in keys)
    return torch.cat([F.pad(key, [0, most - key.shape[1]]) for key in keys])


def _label_and_count(keys: Tensor) -> tuple[Tensor, Tensor]:
    """The label and the number of votes of `_sorted_votes`."""
    labels = -keys & (2**32 - 1)
    return labels.int(), (keys + labels) >> 32


def label_positions(labels: Tensor, values: Tensor) -> Tensor:
    """Return positions of labels among the sorted `values`, both int32; -1 where they aren't."""
    position = torch.searchsorted(values, labels).clamp(max=len(values) - 1)
    return torch.where(values[position] == labels, position, -1)


def candidate_probabilities(candidates: Candidates, probabilities: Tensor) -> LabelProbabilities:
    """Turn the probabilities of the candidates into those of each label on the grid.

    Args:
        candidates: Of one target.
        probabilities: (M, K), of the candidates.

    Yields:
        Each label, in rising order, its box, and its probability there, which is 1 where all atlases have it.
    """
    found = candidates.at_votes(probabilities)
    for value, box, part in candidates.boxes:
        probability = (candidates.agreed[box] == value).float()
        places = candidates.places.index_select(1, candidates.rows[part])
        inside = tuple(place - s.start for place, s in zip(places, box, strict=True))
        probability[inside] = found[part]
        yield value, box, probability
