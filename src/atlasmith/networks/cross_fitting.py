"""Cross-fitting: networks trained on parts of the atlases, so that one predicts each atlas without bias."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Generic, TypeVar

from torch import nn

Module = TypeVar("Module", bound=nn.Module)


def held_out_folds(atlases: Sequence[str], count: int) -> list[list[str]]:
    """Divide atlases into folds, each held out from the training of one network.

    Args:
        atlases: Ids.
        count: Number of networks; fewer where there are fewer atlases.

    Returns:
        The ids that each network is trained without; for a single network or atlas, one that uses all.

    Example:
        >>> held_out_folds(["a", "b", "c"], 2)
        [['a', 'c'], ['b']]
    """
    count = min(count, len(atlases))
    return [list(atlases[first::count]) for first in range(count)] if count > 1 else [[]]


class CrossFitted(nn.Module, Generic[Module]):
    """Hold networks that are each trained without a part of the atlases.

    Args:
        networks: The networks, `each`.
        without: The ids of the atlases that each network is trained without.
    """

    def __init__(self, networks: Iterable[Module], without: Sequence[Sequence[str]]) -> None:
        super().__init__()
        self.without = [frozenset(ids) for ids in without]
        self.each: Sequence[Module] = nn.ModuleList(networks)  # type: ignore[assignment]

    def for_subject(self, name: str) -> Sequence[Module]:
        """Return the networks trained without a subject: for an atlas those that hold it out, else all."""
        held_out = [network for network, ids in zip(self.each, self.without, strict=True) if name in ids]
        return held_out or self.each
