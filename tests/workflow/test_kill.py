"""A run that is killed at any moment resumes to the results of an uninterrupted one."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from small_run import JOBS, finish, make_small_run, result_hashes, start

KILLS = 20
LONGEST = 5.0  # seconds from the end of a job to the kill
SHORTEST = 0.5  # the same before the last job

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted")
    make_small_run(folder)
    assert finish(start(folder, "--cores", 1)).count("Finished jobid") == JOBS
    return folder


@pytest.fixture(scope="module")
def uninterrupted(finished: Path) -> dict[str, str]:
    return result_hashes(finished)


def test_a_run_is_reproduced_from_its_resolved_config(
    finished: Path, uninterrupted: dict[str, str], tmp_path: Path
) -> None:
    shutil.copyfile(finished / "results" / "config.yaml", make_small_run(tmp_path))
    finish(start(tmp_path, "--cores", 1))
    assert result_hashes(tmp_path) == uninterrupted


def test_two_jobs_at_a_time_give_the_same_results(uninterrupted: dict[str, str], tmp_path: Path) -> None:
    make_small_run(tmp_path)
    finish(start(tmp_path, "--cores", 2))
    assert result_hashes(tmp_path) == uninterrupted


@pytest.mark.parametrize("seed", range(KILLS))
def test_a_run_killed_at_a_random_moment_resumes(
    uninterrupted: dict[str, str], tmp_path: Path, seed: int
) -> None:
    # The rule `all` does nothing that could be killed.
    job, moment = divmod(np.random.default_rng(seed).uniform(0, JOBS - 1), 1)
    make_small_run(tmp_path)
    process = start(tmp_path, "--cores", 1)
    assert process.stdout is not None
    finished = 0
    while finished < job:
        line = process.stdout.readline()
        assert line, "it ended by itself"
        finished += "Finished jobid" in line
    time.sleep((SHORTEST if job == JOBS - 2 else LONGEST) * moment)
    assert process.poll() is None, "it ended before it was killed"
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    finish(start(tmp_path, "--unlock"))
    messages = finish(start(tmp_path, "--cores", 1, "--rerun-incomplete"))
    assert messages.count("Finished jobid") <= JOBS - finished
    assert result_hashes(tmp_path) == uninterrupted
