"""Load a training step's data while the step before it computes."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Prefetch(Generic[Item]):
    """Give each step's data, and load that of the next step in a thread meanwhile.

    A step draws its data from its index alone, so that the next step's are known beforehand, and are the same
    ones in a run that was killed and goes on. `load` reads into host memory, pinned where a GPU is to copy it
    (`pinned_for`), and leaves computing to the step: on the thread it would compete for the device's memory.

    Args:
        load: From a step's index to its data. It runs on the thread alone, one call at a time; what it shares
            with the step must bear that.
        steps: Number of steps; nothing is loaded beyond the last.

    Example:
        >>> with Prefetch(lambda index: 10 * index, steps=3) as batches:
        ...     [batches(index) for index in range(3)]
        [0, 10, 20]
    """

    def __init__(self, load: Callable[[int], Item], steps: int) -> None:
        self._load, self._steps = load, steps
        self._next: tuple[int, Future[Item]] | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch")

    def __call__(self, index: int) -> Item:
        """Return the data of a step, and start to load that of the next.

        Raises:
            Exception: What `load` raised for this step.
        """
        if self._next is None or self._next[0] != index:
            self._next = index, self._thread.submit(self._load, index)
        data = self._next[1].result()
        after = index + 1
        self._next = (after, self._thread.submit(self._load, after)) if after < self._steps else None
        return data

    def __enter__(self) -> Prefetch[Item]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for the thread's end."""
        self._thread.shutdown(cancel_futures=True)
        self._next = None
