"""Files that stay in memory once they are read, where many images go through the same run."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

import numpy as np

from atlasmith.core.machine import free_memory, total_memory

Read = TypeVar("Read", bound=Callable[..., Any])

SHARE = 0.25  # of the free memory, that files may take

_open: list[_Kept] = []


class _Kept:
    """What was read of one folder, by reader and file."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.left = os.path.realpath(folder) + os.sep, limit
        self.values: dict[tuple[str, str], Any] = {}
        self.lock = Lock()

    def get(self, key: tuple[str, str], read: Callable[[], Any]) -> Any:
        if key not in self.values:
            value = read()
            size = _size(value)
            with self.lock:
                if key not in self.values and size <= self.left:
                    self.left -= size
                    self.values[key] = value
            return value
        return self.values[key]


@contextmanager
def keep_in_memory(folder: Path) -> Iterator[None]:
    """Keep what readers marked by `kept` read below a folder, through links too, until the block ends.

    Nothing may change these files, or the arrays read, in the meantime.

    Args:
        folder: Such as the output folder of a finished run.
    """
    _open.append(_Kept(folder, int(SHARE * available_memory())))
    try:
        yield
    finally:
        _open.pop()


def kept(read: Read) -> Read:
    """Decorate a reader, whose only argument is a path, for `keep_in_memory`."""

    @functools.wraps(read)
    def wrapped(path: str | Path) -> Any:
        for folder in _open:
            place = os.path.realpath(path)
            if place.startswith(folder.folder):
                return folder.get((read.__name__, place), lambda: read(path))
        return read(path)

    return wrapped  # type: ignore[return-value]


def available_memory() -> int:
    """Return the free memory, bytes; half of the machine's where the system doesn't tell."""
    free = free_memory()
    return total_memory() // 2 if free is None else free


def _size(value: Any) -> int:
    """Bytes of the arrays in a value of the readers: an array, or what holds some."""
    if isinstance(value, np.ndarray):
        return value.nbytes
    parts = value if isinstance(value, list) else vars(value).values() if hasattr(value, "__dict__") else []
    return sum(_size(part) for part in parts)
