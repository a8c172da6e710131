"""Files that stay in memory once they are read, where many images go through the same run."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from atlasmith.core.cache import BoundedCache
from atlasmith.core.machine import free_memory, total_memory

Read = TypeVar("Read", bound=Callable[..., Any])

SHARE = 0.25  # of the free memory, that files may take

_open: list[tuple[str, BoundedCache[Any]]] = []  # with the folder that each is of


@contextmanager
def keep_in_memory(folder: Path) -> Iterator[None]:
    """Keep what readers marked by `kept` read below a folder, through links too, until the block ends.

    Nothing may change these files, or the arrays read, in the meantime.

    Args:
        folder: Such as the output folder of a finished run.
    """
    _open.append((os.path.realpath(folder) + os.sep, BoundedCache(int(SHARE * available_memory()))))
    try:
        yield
    finally:
        _open.pop()


def kept(read: Read) -> Read:
    """Decorate a reader, whose only argument is a path, for `keep_in_memory`."""

    @functools.wraps(read)
    def wrapped(path: str | Path) -> Any:
        for folder, cache in _open:
            place = os.path.realpath(path)
            if place.startswith(folder):
                return cache.get((read.__name__, place), lambda: read(path))
        return read(path)

    return wrapped  # type: ignore[return-value]


def available_memory() -> int:
    """Return the free memory, bytes; half of the machine's where the system doesn't tell."""
    free = free_memory()
    return total_memory() // 2 if free is None else free
