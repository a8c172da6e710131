"""What is computed or read once, and kept within a bound of memory."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from threading import Lock
from typing import Any, Generic, TypeVar

Value = TypeVar("Value")


class BoundedCache(Generic[Value]):
    """Keep values until they fill a bound of memory; those that no longer fit are made each time.

    None is dropped for another: where all are asked for equally often, that would gain nothing.

    Args:
        limit: Bytes of all values.

    Example:
        >>> import numpy as np
        >>> cache = BoundedCache(limit=100)
        >>> cache.get("a", lambda: np.zeros(80, np.uint8)) is cache.get("a", lambda: None)
        True
        >>> cache.get("b", lambda: np.zeros(80, np.uint8)) is cache.get("b", lambda: None)
        False
    """

    def __init__(self, limit: int) -> None:
        self.left = limit
        self.values: dict[Hashable, Value] = {}
        self.lock = Lock()

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """Return the value of a key: the one that is kept, or what `make` returns."""
        if key in self.values:
            return self.values[key]
        value = make()
        size = array_bytes(value)
        with self.lock:
            if key not in self.values and size <= self.left:
                self.left -= size
                self.values[key] = value
        return value


def array_bytes(value: Any) -> int:
    """Sum the bytes of the arrays and tensors in a value: itself, its items, or its attributes."""
    if hasattr(value, "nbytes"):
        return int(value.nbytes)
    if isinstance(value, (list, tuple)):
        return sum(map(array_bytes, value))
    return sum(map(array_bytes, vars(value).values())) if hasattr(value, "__dict__") else 0
