"""Run the whole workflow on a BIDS folder: the plan, Snakemake, and what came out."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

import yaml

from atlasmith import __version__
from atlasmith.cohort import Participant, check_output, read_participants
from atlasmith.config import Config
from atlasmith.config.choices import check_choices
from atlasmith.core.errors import AtlasmithError
from atlasmith.core.machine import count_gpus
from atlasmith.core.progress import format_seconds
from atlasmith.io.failures import read_failures
from atlasmith.io.files import lock, write_text
from atlasmith.io.tables import read_cohort
from atlasmith.launch.discovery import Discovery, image_paths, survey
from atlasmith.launch.plan import Plan, available_cores
from atlasmith.launch.request import Request, resolve_config
from atlasmith.launch.snakemake import FailedJob, command, dry_run, failed_jobs, run_snakemake
from atlasmith.workflow.failures import check_remaining, current_failures, forget_failures, row_text
from atlasmith.workflow.resources import check_gpus

DONE, PARTLY, FAILED, INTERRUPTED = 0, 1, 2, 130  # exit codes
SHOWN = 10  # findings that are listed at the end
TAIL_LINES = 12  # of the log of a failed job


def run_cohort(request: Request) -> int:
    """Run the workflow, and go on without subjects that fail.

    Args:
        request: What was asked for.

    Returns:
        The exit code: 0; 1 if some subjects failed and all else is done; 2 if a stage failed; 130 if the user
        interrupted it.

    Raises:
        AtlasmithError: When config, cohort or output are refused.
    """
    start = time.monotonic()
    config, found = resolve_config(request)
    check_choices(config)
    check_output(config)
    if not request.is_cluster:
        check_gpus(config, count_gpus())
    participants = read_participants(config)
    rows = {participant.id: row_text(participant) for participant in participants}
    failures = {} if request.retry_failed else current_failures(config, rows)
    check_remaining(config, participants, failures)
    plan = _make_plan(request, config, participants, found)
    print(f"atlasmith {__version__}\n{plan.text(found, failures, request.is_cluster)}\n", flush=True)
    if request.dry_run:
        return DONE if dry_run(request, config) == 0 else FAILED
    _prepare(request, config)
    try:
        failed = _run_to_the_end(request, config, plan.stages)
    except KeyboardInterrupt:
        print("interrupted: what is finished stays, and the same command goes on", file=sys.stderr)
        return INTERRUPTED
    return _conclude(config, failed, time.monotonic() - start)


def _make_plan(
    request: Request, config: Config, participants: Sequence[Participant], found: Discovery | None
) -> Plan:
    extent = found.extent if found else survey(image_paths(request.bids, config.cohort.channels[0]))[1]
    cores = int(request.cores) if request.cores and request.cores.isdigit() else available_cores()
    return Plan(config, participants, extent, cores)


def _prepare(request: Request, config: Config) -> None:
    """Write the config for Snakemake, where no other run is writing."""
    try:
        lock(config.layout.lock)  # Snakemake's process will hold it
    except BlockingIOError:
        raise AtlasmithError(
            f"{config.output}: another run is writing here. Wait until it ends, or choose another folder."
        ) from None
    write_text(config.layout.run_config, yaml.safe_dump(config.resolved(), sort_keys=False))
    if request.retry_failed:
        forget_failures(config)


def _run_to_the_end(request: Request, config: Config, stages: Sequence[str]) -> list[FailedJob] | None:
    """Run Snakemake, and again as long as further subjects fail; return failed jobs, or None."""
    while True:
        before = read_failures(config.layout.failures)
        code, text = run_snakemake(command(request, config), config.layout.snakemake_log, stages)
        if code == 0:
            return None
        new = [f for name, f in read_failures(config.layout.failures).items() if before.get(name) != f]
        if not new:
            return failed_jobs(text)
        for failure in new:
            print(f"sub-{failure.subject} failed in {failure.stage}: {failure.message}", flush=True)
        _check_again(config)
        print("going on with the other subjects", flush=True)


def _check_again(config: Config) -> None:
    """Check that enough subjects are left; the tables may have changed during the run."""
    participants = read_participants(config)
    check_remaining(config, participants, current_failures(config, {p.id: row_text(p) for p in participants}))


def _conclude(config: Config, failed: list[FailedJob] | None, seconds: float) -> int:
    """Print what came out, and return the exit code."""
    layout = config.layout
    if failed is not None:
        for job in failed:
            print(f"\nfailed: {job.rule}, see {job.log}", file=sys.stderr)
            print("\n".join(f"  {line}" for line in job.tail(TAIL_LINES)), file=sys.stderr)
        print(f"\nThe run has failed; {layout.snakemake_log} has everything. Start again.", file=sys.stderr)
        return FAILED
    failures = read_failures(layout.failures)
    print(f"\ndone in {format_seconds(seconds)}")
    if layout.report.exists():
        print(f"report    {layout.report}")
        print(
            "\n".join(f"look at   {line}" for line in _findings(config)) or "look at   nothing needs review"
        )
    for failure in failures.values():
        print(f"failed    sub-{failure.subject} in {failure.stage}: {failure.message}")
    return PARTLY if failures else DONE


def _findings(config: Config) -> list[str]:
    """What the report lists for review, without the failed subjects."""
    from atlasmith.report.results import Results
    from atlasmith.report.review import FAILED as FAILED_KIND
    from atlasmith.report.review import find_review

    results = Results(config, read_cohort(config.layout.cohort))
    found = [finding for finding in find_review(results) if finding.kind != FAILED_KIND]
    lines = [f"sub-{finding.subject}: {' '.join(finding.reasons)}" for finding in found[:SHOWN]]
    return lines + ([f"{len(found) - SHOWN} more; see the report"] if len(found) > SHOWN else [])
