"""Cross-fitting: a network that learned from an atlas knows it too well to say how it does on someone new."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Generic, TypeVar

from torch import nn

Network = TypeVar("Network", bound=nn.Module)


def held_out_folds(atlases: Sequence[str], count: int) -> list[list[str]]:
    """The atlases that each of at most `count` networks learns without: every atlas once, where there are two
    or more to share."""
    count = min(count, len(atlases))
    return [list(atlases[first::count]) for first in range(count)] if count > 1 else [[]]


class CrossFitted(nn.Module, Generic[Network]):
    """Networks that learn from a part of the atlases each, so that there is one to judge any of them as it
    judges someone new. `without` says what each learns without, by id."""

    def __init__(self, networks: Iterable[Network], without: Sequence[Sequence[str]]) -> None:
        super().__init__()
        self.without = [frozenset(ids) for ids in without]
        self.each: Sequence[Network] = nn.ModuleList(networks)  # type: ignore[assignment]

    def for_subject(self, name: str) -> Sequence[Network]:
        """Those that learned nothing of `name`, of an atlas the one that leaves it out, of others all."""
        blind = [network for network, ids in zip(self.each, self.without, strict=True) if name in ids]
        return blind or self.each
