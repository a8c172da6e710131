"""Atlases and the image that they label, on one grid."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from atlasmith.core.grid import Array

Box = tuple[slice, ...]


@dataclass(frozen=True, eq=False)
class AlignedAtlases:
    """N atlases and a target with C channels on one grid.

    Args:
        labels: (N, *shape) integers, one label map an atlas; where an atlas has no vote, its label is
            replaced by one that has, so that nothing depends on it.
        images: (C, N, *shape), the atlases' intensities in [0, 1]; 0 in a channel that an atlas doesn't have.
        target: (C, *shape), the image to segment, in [0, 1]; 0 in a channel that it doesn't have.
        present: (C, N) booleans, whether the target and an atlas both have a channel; None: all have all.
        valid: (N, *shape) booleans, false where an atlas may not be learned from; None: nowhere.
        target_valid: (*shape) booleans, false where the target may not be learned from; None: nowhere.

    Example:
        >>> valid = np.array([[True, True], [False, True], [False, True]])
        >>> atlases = AlignedAtlases(np.array([[1, 1], [2, 2], [2, 2]]), *np.zeros((2, 1, 3, 2)), valid=valid)
        >>> atlases.share(1, (slice(0, 2),)).round(2)
        array([1.  , 0.33])
    """

    labels: Array
    images: Array
    target: Array
    present: Array | None = field(default=None, kw_only=True)
    valid: Array | None = field(default=None, kw_only=True)
    target_valid: Array | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.votes is not None:
            voted = np.where(self.votes, self.labels, np.iinfo(self.labels.dtype).min).max(axis=0)
            object.__setattr__(self, "labels", np.where(self.votes, self.labels, voted))

    def part(self, box: Box, members: Array | slice = slice(None)) -> AlignedAtlases:
        """Cut a box of the grid, and take some of the atlases."""
        return AlignedAtlases(
            self.labels[:, *box][members],
            self.images[:, :, *box][:, members],
            self.target[:, *box],
            present=None if self.present is None else self.present[:, members],
            valid=None if self.valid is None else self.valid[:, *box][members],
            target_valid=None if self.target_valid is None else self.target_valid[box],
        )

    @cached_property
    def votes(self) -> Array | None:
        """Whether each atlas has a vote (N, *shape): all have one where none is valid; None: everywhere."""
        return None if self.valid is None else self.valid | ~self.valid.any(axis=0, keepdims=True)

    @cached_property
    def comparable(self) -> Array | None:
        """Where intensities say something (*shape): the target is valid, and some atlas; None: everywhere."""
        if self.valid is None:
            return self.target_valid
        some: Array = np.asarray(self.valid.any(axis=0))
        return some if self.target_valid is None else some & self.target_valid

    @cached_property
    def shared_channels(self) -> list[int]:
        """The channels that the target and some atlas have."""
        return [channel for channel in range(len(self.target)) if self.having(channel).any()]

    def having(self, channel: int) -> Array:
        """Tell which atlases (N,) have a channel, if the target has it."""
        return np.ones(len(self.labels), dtype=bool) if self.present is None else self.present[channel]

    @cached_property
    def both_valid(self) -> Array | None:
        """Where the target and each atlas may be learned from (N, *shape); None: everywhere."""
        if self.target_valid is None:
            return self.valid
        valid = np.ones(self.labels.shape, dtype=bool) if self.valid is None else self.valid
        both: Array = valid & self.target_valid
        return both

    def voting(self, value: int, box: Box) -> Array:
        """Tell which atlases (N, *box) vote for a label within a box."""
        has_label: Array = self.labels[:, *box] == value
        return has_label if self.votes is None else has_label & self.votes[:, *box]

    def share(self, value: int, box: Box) -> Array:
        """Compute a label's share (*box) of the votes within a box."""
        return self.share_of(self.voting(value, box), box)

    def share_of(self, voting: Array, box: Box) -> Array:
        """Compute the share (*box) of the votes that some (N, *box) of them have within a box."""
        if self.votes is None:
            return voting.mean(axis=0)
        share: Array = voting.sum(axis=0) / self.votes[:, *box].sum(axis=0)
        return share

    def mean_over_votes(self, values: Array) -> Array:
        """Compute the mean (*shape) of values (N, *shape) over the atlases that have a vote."""
        where: Any = True if self.votes is None else self.votes
        mean: Array = values.mean(axis=0, where=where)
        return mean
