"""Show how far a run is, from Snakemake's own log and those of its jobs."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from atlasmith.core.progress import format_seconds, write_line

POLL_SECONDS = 1.0  # between two looks at the logs
LINE_SECONDS = 50.0  # between two lines where the stream is no terminal
TAIL_BYTES = 4000  # of a job's log, which hold its last line of progress

# What Snakemake writes: its table of jobs, and the start, log, end and failure of each.
_COUNT = re.compile(r"(\w+) +(\d+)")
_START = re.compile(r"(?:local)?rule (?!all:)(\w+):")
_LOG = re.compile(r"    log: (.+)")
_FINISHED = re.compile(r"Finished jobid: \d+ \(Rule: (?!all\))(\w+)\)")
_ERROR = re.compile(r"Error in rule (\w+)")
# What `atlasmith.core.progress` writes.
_PROGRESS = re.compile(r"(.+?): (\d+) of (\d+)(, .*)?")


def stage_of(rule: str) -> str:
    """Return the stage of a rule.

    Example:
        >>> stage_of("propagate_targets_12"), stage_of("fuse_train")
        ('propagate', 'fuse_train')
    """
    return re.sub(r"(_(atlases|targets|others))?_\d+$", "", rule)


@dataclass
class Jobs:
    """The jobs of one stage.

    Attributes:
        total: How many there are.
        done: How many have ended.
        failed: Rules of those that have failed.
        running: Log of each running job, by rule.
    """

    total: int = 0
    done: int = 0
    failed: set[str] = field(default_factory=set)
    running: dict[str, Path] = field(default_factory=dict)

    def start(self, rule: str, log: Path | None = None) -> None:
        """Take note of a job that starts, perhaps once more after it failed."""
        self.failed.discard(rule)
        self.running[rule] = log or self.running.get(rule, Path())


@dataclass
class RunState:
    """What Snakemake's log says of a run so far.

    Attributes:
        stages: Jobs by stage, in the order of Snakemake's table.
    """

    stages: dict[str, Jobs] = field(default_factory=dict)
    _rule: str = ""
    _in_table: bool = False

    def read(self, line: str) -> None:
        """Take account of a further line of the log."""
        line = line.rstrip("\n")
        if line == "Job stats:":
            self._in_table, self.stages = True, {}
        elif self._in_table:
            self._in_table = bool(line)
            match = _COUNT.fullmatch(line)
            if match and match[1] not in ("total", "all"):
                self._jobs(match[1]).total += int(match[2])
        elif match := _START.fullmatch(line):
            self._rule = match[1]
            self._jobs(self._rule).start(self._rule)
        elif self._rule and (match := _LOG.fullmatch(line)):
            self._jobs(self._rule).start(self._rule, Path(match[1]))
        elif match := _FINISHED.fullmatch(line):
            self._end(match[1]).done += 1
        elif match := _ERROR.match(line):
            self._rule = ""  # what follows are no lines of a job that starts
            self._end(match[1]).failed.add(match[1])

    def _jobs(self, rule: str) -> Jobs:
        return self.stages.setdefault(stage_of(rule), Jobs())

    def _end(self, rule: str) -> Jobs:
        jobs = self._jobs(rule)
        jobs.running.pop(rule, None)
        return jobs


def last_progress(log: Path) -> tuple[float, str]:
    """Read how far a job is.

    Args:
        log: Its log, which may not exist yet.

    Returns:
        The part that is done, from 0 to 1, and the last line of progress; 0 and nothing where there is none.
    """
    try:
        with log.open("rb") as file:
            file.seek(max(log.stat().st_size - TAIL_BYTES, 0))
            lines = file.read().decode("utf-8", errors="replace").splitlines()
    except OSError:
        return 0.0, ""
    for line in reversed(lines):
        if match := _PROGRESS.fullmatch(line):
            return int(match[2]) / max(int(match[3]), 1), line
    return 0.0, ""


class Display:
    """The stages of a run, with bars on a terminal, and a line a minute elsewhere.

    Args:
        log: Snakemake's own log, which grows during the run.
        stages: Names of the stages that are shown, in their order; others are added when they start.
        stream: Where to show them, such as `sys.stdout`.
    """

    def __init__(self, log: Path, stages: Sequence[str], stream: IO[str]) -> None:
        self.log, self.stages, self.stream = log, list(stages), stream
        self.state = RunState()
        self._start = self._shown = time.monotonic()
        self._position = log.stat().st_size if log.exists() else 0
        self._bars: Any = None
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> Display:
        if self.stream.isatty():
            self._bars = _bars(self.stream)
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def watch(self, process: subprocess.Popen[Any]) -> int:
        """Show the run until a process ends.

        Args:
            process: Snakemake's.

        Returns:
            Its exit code.
        """
        while True:
            ended = process.poll() is not None
            for line in self._new_lines():
                self.state.read(line)
            self._show(last=ended)
            if ended:
                return int(process.returncode)
            try:
                process.wait(POLL_SECONDS)
            except subprocess.TimeoutExpired:
                continue

    def _new_lines(self) -> Iterator[str]:
        """Yield the whole lines that were added to the log."""
        if not self.log.exists():
            return
        with self.log.open("rb") as file:
            file.seek(self._position)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._position += len(line)
                yield line.decode("utf-8", errors="replace")

    def _show(self, last: bool) -> None:
        if self._bars is not None:
            self._draw()
        elif last or time.monotonic() - self._shown >= LINE_SECONDS:
            self._shown = time.monotonic()
            write_line(self.line(), self.stream)

    def line(self) -> str:
        """Return the state of the run in one line."""
        done, total = (
            sum(getattr(jobs, name) for jobs in self.state.stages.values()) for name in ("done", "total")
        )
        elapsed = format_seconds(time.monotonic() - self._start)
        now = [detail or stage for stage, _, detail in self._running()]
        return f"[{elapsed}] {done} of {total} jobs done" + (f"; {'; '.join(now)}" if now else "")

    def _running(self) -> Iterator[tuple[str, float, str]]:
        """For each running job: its stage, the part that is done, and its last line of progress."""
        for stage, jobs in self.state.stages.items():
            for log in jobs.running.values():
                yield stage, *last_progress(log)

    def _draw(self) -> None:
        """Update a bar for each stage that has jobs."""
        running = list(self._running())
        for stage in [*self.stages, *(name for name in self.state.stages if name not in self.stages)]:
            jobs = self.state.stages.get(stage)
            if jobs is None or not jobs.total:
                continue
            if stage not in self._tasks:
                self._tasks[stage] = self._bars.add_task(stage.replace("_", " "), start=False, detail="")
            task = self._tasks[stage]
            parts = [(part, detail) for name, part, detail in running if name == stage]
            if parts or jobs.done:
                self._bars.start_task(task)
            detail = next((text for _, text in reversed(parts) if text), "")
            if jobs.failed:
                detail = f"{len(jobs.failed)} failed"
            completed = jobs.done + len(jobs.failed) + sum(part for part, _ in parts)
            self._bars.update(task, total=jobs.total, completed=completed, detail=detail)


def _bars(stream: IO[str]) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description:<17}"),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("{task.fields[detail]}", markup=False),
        console=Console(file=stream),
    )
