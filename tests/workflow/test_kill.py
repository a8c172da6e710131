"""A run that is killed at any moment goes on to the results of one that wasn't."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from whole import JOBS, finish, left_by, make_whole, start

KILLS = 20
LONGEST = 5.0  # seconds after a job has ended, or into the next
SHORTEST = 0.5  # before the last one ends

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    make_whole(folder)
    assert finish(start(folder, "--cores", 1)).count("Finished jobid") == JOBS
    return folder


@pytest.fixture(scope="module")
def undisturbed(finished: Path) -> dict[str, str]:
    return left_by(finished)


def test_a_run_is_made_again_from_its_own_record(
    finished: Path, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    shutil.copyfile(finished / "results" / "config.yaml", make_whole(tmp_path))
    finish(start(tmp_path, "--cores", 1))
    assert left_by(tmp_path) == undisturbed


def test_two_jobs_at_a_time_make_the_same(undisturbed: dict[str, str], tmp_path: Path) -> None:
    make_whole(tmp_path)
    finish(start(tmp_path, "--cores", 2))
    assert left_by(tmp_path) == undisturbed


@pytest.mark.parametrize("seed", range(KILLS))
def test_killed_at_a_random_moment(undisturbed: dict[str, str], tmp_path: Path, seed: int) -> None:
    # The rule `all` does nothing that could be killed.
    job, moment = divmod(np.random.default_rng(seed).uniform(0, JOBS - 1), 1)
    make_whole(tmp_path)
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
    assert left_by(tmp_path) == undisturbed
