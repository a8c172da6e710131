"""Progress of long loops: a bar on a terminal, lines of text in a log."""

from __future__ import annotations

import resource
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import IO, Any, TypeVar

Item = TypeVar("Item")

LINE_SECONDS = 15.0  # between two lines of a loop in a log
SILENT_SECONDS = 60.0  # without a line, after which `heartbeat` writes one

_running: list[Progress] = []
_last_line = 0.0


class Progress:
    """Show how far a loop is: a bar where stderr is a terminal, else a line on stdout now and then.

    Args:
        label: Names the loop, such as `template`.
        total: Number of steps.
        done: Steps that were done before, by a run that was killed.
        enabled: False shows nothing, as in all but one of several processes.

    Example:
        >>> with Progress("register", 2) as progress:
        ...     progress.update(dice=0.875)
        ...     progress.update(dice=0.9)  # doctest: +ELLIPSIS
        register: 2 of 2, dice 0.9000, ... GiB
    """

    def __init__(self, label: str, total: int, done: int = 0, enabled: bool = True) -> None:
        self.label, self.total, self.done, self.enabled = label, total, done, enabled
        self._first, self._values = done, ""
        self._start = self._shown = time.monotonic()
        self._bar: Any = None

    def __enter__(self) -> Progress:
        if self.enabled:
            _running.append(self)
            if sys.stderr.isatty():
                self._bar = _bar()
                self._bar.start()
                self._bar.add_task(self.label, total=self.total, completed=self.done, values="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.enabled:
            _running.remove(self)
        if self._bar is not None:
            self._bar.stop()

    def update(self, steps: int = 1, **values: float) -> None:
        """Count steps.

        Args:
            steps: How many were done.
            **values: What to show beside, such as the loss, by name.
        """
        self.done += steps
        if values:
            self._values = "".join(f", {name} {value:.4f}" for name, value in values.items())
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self.done, values=self._values.lstrip(", "))
        elif self.enabled and (self.done >= self.total or time.monotonic() - self._shown >= LINE_SECONDS):
            self._shown = time.monotonic()
            write_line(str(self))

    def __str__(self) -> str:
        elapsed, steps = time.monotonic() - self._start, self.done - self._first
        left = ""
        if steps > 0 and self.done < self.total:
            left = f", {format_seconds(elapsed / steps * (self.total - self.done))} left"
        return f"{self.label}: {self.done} of {self.total}{self._values}{left}, {peak_memory():.2f} GiB"


def track(items: Sequence[Item], label: str) -> Iterator[Item]:
    """Yield items, and show how many of them are done.

    Args:
        items: What is iterated over.
        label: Names the loop.

    Yields:
        The items, in their order.
    """
    with Progress(label, len(items)) as progress:
        for item in items:
            yield item
            progress.update()


@contextmanager
def heartbeat(label: str) -> Iterator[None]:
    """Write a line at least every `SILENT_SECONDS` while a block runs and stderr is no terminal.

    Args:
        label: Names what runs, where no loop is running.
    """
    start, ended = time.monotonic(), threading.Event()

    def beat() -> None:
        while not ended.wait(1.0):
            now = time.monotonic()
            if now - max(start, _last_line) < SILENT_SECONDS:
                continue
            where = str(_running[-1]) if _running else f"{label}: running"
            write_line(f"{where}, {format_seconds(now - start)} since the start")

    if sys.stderr.isatty():
        yield
        return
    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def write_line(line: str, stream: IO[str] | None = None) -> None:
    """Write a line on a stream, stdout by default; `heartbeat` counts the time from it."""
    global _last_line
    _last_line = time.monotonic()
    print(line, file=stream, flush=True)


def format_seconds(seconds: float) -> str:
    """Write a time in its two largest units.

    Example:
        >>> format_seconds(8), format_seconds(200), format_seconds(7500)
        ('8 s', '3 min 20 s', '2 h 5 min')
    """
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"


def peak_memory() -> float:
    """Return the peak memory of this process on CPU and GPU together, GiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)
    torch = sys.modules.get("torch")
    return peak + (torch.cuda.max_memory_allocated() / 2**30 if torch and torch.cuda.is_available() else 0)


def _bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    return Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[values]}"),
        console=Console(stderr=True),
    )
