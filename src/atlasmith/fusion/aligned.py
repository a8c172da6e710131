"""Atlases and the image that they label, on one grid."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from atlasmith.core.grid import Array

if TYPE_CHECKING:
    from torch import Tensor

Box = tuple[slice, ...]

NO_VOTE = -(2**31)  # below all labels


@dataclass(frozen=True, eq=False)
class AlignedAtlases:
    """N atlases and a target with C channels on one grid, on one device.

    Args:
        labels: (N, *shape) int32, one label map an atlas; where an atlas has no vote, its label is replaced
            by one that has, so that nothing depends on it.
        images: (C, N, *shape), the atlases' intensities in [0, 1]; 0 in a channel that an atlas doesn't have.
        target: (C, *shape), the image to segment, in [0, 1]; 0 in a channel that it doesn't have.
        present: (C, N) booleans on the host, whether the target and an atlas both have a channel; None: all
            have all.
        valid: (N, *shape) booleans, false where an atlas may not be learned from; None: nowhere.
        target_valid: (*shape) booleans, false where the target may not be learned from; None: nowhere.

    Example:
        >>> import torch
        >>> labels = torch.tensor([[1, 1], [2, 2], [2, 2]])
        >>> valid = torch.tensor([[True, True], [False, True], [False, True]])
        >>> atlases = AlignedAtlases(labels, torch.zeros(1, 3, 2), torch.zeros(1, 2), valid=valid)
        >>> atlases.share(1, (slice(0, 2),))
        tensor([1.0000, 0.3333])
    """

    labels: Tensor
    images: Tensor
    target: Tensor
    present: Array | None = field(default=None, kw_only=True)
    valid: Tensor | None = field(default=None, kw_only=True)
    target_valid: Tensor | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.votes is not None and len(self.labels):
            voted = self.labels.masked_fill(~self.votes, NO_VOTE).amax(dim=0)
            object.__setattr__(self, "labels", self.labels.where(self.votes, voted))

    def part(self, box: Box, members: Tensor | slice = slice(None)) -> AlignedAtlases:
        """Cut a box of the grid, and take some of the atlases, by their positions on the host."""
        rows = members if isinstance(members, slice) else members.to(self.labels.device)
        positions = members if isinstance(members, slice) else members.numpy()
        return AlignedAtlases(
            self.labels[:, *box][rows],
            self.images[:, :, *box][:, rows],
            self.target[:, *box],
            present=None if self.present is None else self.present[:, positions],
            valid=None if self.valid is None else self.valid[:, *box][rows],
            target_valid=None if self.target_valid is None else self.target_valid[box],
        )

    @cached_property
    def votes(self) -> Tensor | None:
        """Whether each atlas has a vote (N, *shape): all have one where none is valid; None: everywhere."""
        return None if self.valid is None else self.valid | ~self.valid.any(dim=0, keepdim=True)

    @cached_property
    def comparable(self) -> Tensor | None:
        """Where intensities say something (*shape): the target is valid, and some atlas; None: everywhere."""
        if self.valid is None:
            return self.target_valid
        some = self.valid.any(dim=0)
        return some if self.target_valid is None else some & self.target_valid

    @cached_property
    def shared_channels(self) -> list[int]:
        """The channels that the target and some atlas have."""
        return [channel for channel in range(len(self.target)) if self.having(channel).any()]

    def having(self, channel: int) -> Array:
        """Tell which atlases (N,) have a channel, if the target has it."""
        return np.ones(len(self.labels), dtype=bool) if self.present is None else self.present[channel]

    @cached_property
    def both_valid(self) -> Tensor | None:
        """Where the target and each atlas may be learned from (N, *shape); None: everywhere."""
        if self.target_valid is None:
            return self.valid
        valid = self.target_valid.expand(self.labels.shape)
        return valid if self.valid is None else self.valid & valid

    def voting(self, value: int, box: Box) -> Tensor:
        """Tell which atlases (N, *box) vote for a label within a box."""
        has_label = self.labels[:, *box] == value
        return has_label if self.votes is None else has_label & self.votes[:, *box]

    def share(self, value: int, box: Box) -> Tensor:
        """Compute a label's share (*box) of the votes within a box."""
        return self.share_of(self.voting(value, box), box)

    def share_of(self, voting: Tensor, box: Box) -> Tensor:
        """Compute the share (*box) of the votes that some (N, *box) of them have within a box."""
        from torch import int16  # twice as fast as a sum of floats

        count = len(self.labels) if self.votes is None else self.votes[:, *box].sum(dim=0)
        return voting.sum(dim=0, dtype=int16) / count

    def mean_over_votes(self, values: Tensor) -> Tensor:
        """Compute the mean (*shape) of values (N, *shape) over the atlases that have a vote."""
        if self.votes is None:
            return values.mean(dim=0)
        return values.masked_fill(~self.votes, 0).sum(dim=0) / self.votes.sum(dim=0)


def disagreement(labels: Tensor) -> Tensor:
    """Tell where some label maps (N, *shape) differ (*shape)."""
    differ = labels[0] != labels[-1]
    for other in labels[1:-1]:
        differ |= other != labels[0]
    return differ
