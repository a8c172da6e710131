"""Cross-fitting: networks trained on parts of the atlases, so that one predicts each atlas without bias."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Generic, TypeVar

from torch import nn

from atlasmith.io.tables import participant_of

Module = TypeVar("Module", bound=nn.Module)


def held_out_folds(atlases: Sequence[str], count: int) -> list[list[str]]:
    """Divide atlases into folds, each held out from the training of one network.

    Args:
        atlases: Ids of scans; all scans of a participant are in one fold.
        count: Number of networks; fewer where there are fewer participants.

    Returns:
        The ids that each network is trained without; for a single network or participant, one that uses all.

    Example:
        >>> held_out_folds(["a", "b_ses-1", "b_ses-2", "c"], 2)
        [['a', 'c'], ['b_ses-1', 'b_ses-2']]
    """
    participants = list(dict.fromkeys(map(participant_of, atlases)))
    count = min(count, len(participants))
    if count <= 1:
        return [[]]
    folds = (participants[first::count] for first in range(count))
    return [[atlas for atlas in atlases if participant_of(atlas) in fold] for fold in folds]


class CrossFitted(nn.Module, Generic[Module]):
    """Hold networks that are each trained without a part of the atlases.

    Args:
        networks: The networks, `each`.
        without: The ids of the atlases that each network is trained without, in `held_out_folds`.

    Attributes:
        without: The participants that each network is trained without.
    """

    def __init__(self, networks: Iterable[Module], without: Sequence[Sequence[str]]) -> None:
        super().__init__()
        self.without = [frozenset(map(participant_of, ids)) for ids in without]
        self.each: Sequence[Module] = nn.ModuleList(networks)  # type: ignore[assignment]

    def for_subject(self, name: str) -> Sequence[Module]:
        """Return the networks trained without a participant: where it has atlases, those that hold it out.

        Args:
            name: The id of any of its scans.
        """
        participant, networks = participant_of(name), zip(self.each, self.without, strict=True)
        return [network for network, held_out in networks if participant in held_out] or self.each
