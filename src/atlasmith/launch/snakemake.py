"""Start Snakemake, wait for it, and end it."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from atlasmith import __version__
from atlasmith.config import Config
from atlasmith.core.machine import count_gpus, total_memory
from atlasmith.io.files import write_text
from atlasmith.launch.profiles import limits, profile_folder
from atlasmith.launch.request import Request
from atlasmith.workflow import SNAKEFILE
from atlasmith.workflow.display import Display

# How jobs are asked to end, and for how many seconds they are waited for.
SIGNALS = ((signal.SIGINT, 30.0), (signal.SIGTERM, 10.0), (signal.SIGKILL, 10.0))
FAILED_JOB = re.compile(r"^Error in rule (\w+):\n(?:    .*\n)*?    log: (.+?)(?: \(check.*)?$", re.MULTILINE)


@dataclass(frozen=True)
class FailedJob:
    """A job that failed.

    Attributes:
        rule: Name of the rule.
        log: Its log.
    """

    rule: str
    log: Path

    def tail(self, lines: int) -> list[str]:
        """Read the last lines of the log."""
        try:
            return self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]
        except OSError:
            return []


def command(request: Request, config: Config, workspace: Path | None = None) -> list[str]:
    """Give Snakemake's command line.

    Args:
        request: What was asked for.
        config: The run's config.
        workspace: Folder of Snakemake's own files and of the config; None is the output.

    Returns:
        The program and its arguments. Those of the user come first, and are outdone where they differ.
    """
    configfile = config.layout.run_config if workspace is None else workspace / config.layout.run_config.name
    arguments = [sys.executable, "-m", "snakemake", *request.arguments]
    arguments += ["--snakefile", SNAKEFILE, "--configfile", str(configfile)]
    # Snakemake keeps records and locks there, so that runs from one folder to several outputs don't meet. The
    # output has a lock of ours, which doesn't survive a killed process.
    arguments += ["--directory", str(workspace or config.output), "--nolock"]
    arguments += ["--workflow-profile", str(profile_folder(request.profile))]
    arguments += ["--keep-going", "--rerun-incomplete"]
    if request.cores is not None:
        arguments += ["--cores", request.cores]
    if not request.is_cluster:
        here = {"mem_mb": total_memory() // 2**20} | ({"gpu": count_gpus()} if count_gpus() else {})
        arguments += ["--resources", *limits(request.profile, request.arguments, here)]
    return arguments


def dry_run(request: Request, config: Config) -> int:
    """Print which jobs would run; nothing is written into the output.

    Args:
        request: What was asked for.
        config: The run's config.

    Returns:
        Snakemake's exit code.
    """
    with tempfile.TemporaryDirectory() as temporary:
        records = config.output / ".snakemake"
        workspace = Path(temporary)
        write_text(workspace / config.layout.run_config.name, yaml.safe_dump(config.resolved()))
        arguments = command(request, config, workspace)
        if records.exists():
            arguments += ["--directory", str(config.output)]
        if "--quiet" not in arguments:
            arguments += ["--quiet", "host", "rules"]
        return subprocess.run([*arguments, "--dry-run"], env=_environment()).returncode


def run_snakemake(arguments: Sequence[str], log: Path, stages: Sequence[str]) -> tuple[int, str]:
    """Run Snakemake, and show how far it is.

    Args:
        arguments: See `command`.
        log: Where its output is appended.
        stages: Names of the stages, in their order.

    Returns:
        Its exit code, and what it wrote.

    Raises:
        KeyboardInterrupt: When the user ends the run, after its jobs have ended.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    now = datetime.now().isoformat(sep=" ", timespec="seconds")
    with log.open("a", encoding="utf-8") as stream:
        stream.write(f"=== {now}, atlasmith {__version__}: {shlex.join(arguments)}\n")
        stream.flush()
        start = stream.tell()
        display = Display(log, stages, sys.stdout)
        earlier = signal.signal(signal.SIGTERM, signal.default_int_handler)
        # In a session of its own, so that its jobs can be ended together, and Ctrl-C doesn't reach it twice.
        process = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=_environment(),
            start_new_session=True,
        )
        try:
            with display:
                code = display.watch(process)
        finally:
            _end(process)
            signal.signal(signal.SIGTERM, earlier)
    with log.open("rb") as written:
        written.seek(start)
        return code, written.read().decode("utf-8", errors="replace")


def failed_jobs(text: str) -> list[FailedJob]:
    """Find the jobs that failed in what Snakemake wrote.

    Example:
        >>> failed_jobs("Error in rule cohort:\\n    jobid: 1\\n    log: logs/all.log (check log file(s))\\n")
        [FailedJob(rule='cohort', log=PosixPath('logs/all.log'))]
    """
    return list(dict.fromkeys(FailedJob(rule, Path(log)) for rule, log in FAILED_JOB.findall(text)))


def _end(process: subprocess.Popen[Any]) -> None:
    """End a process and its jobs, if they haven't ended."""
    for signum, patience in SIGNALS:
        if process.poll() is not None:
            return
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signum)
        with suppress(subprocess.TimeoutExpired):
            process.wait(patience)


def _environment() -> dict[str, str]:
    """The environment of jobs, in which `atlasmith` is the one of this Python."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return {**os.environ, "PATH": path}
