"""A run through SLURM's sbatch, on a cluster of this machine alone, leaves what a local one does."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest
from whole import JOBS, ROOT, finish, left_by, make_whole, start

CLUSTER = ROOT / "tests" / "cluster" / "slurm.sh"


@pytest.mark.slow
def test_the_same_results_through_slurm(tmp_path: Path) -> None:
    if not all(shutil.which(tool, path="/usr/bin:/usr/sbin") for tool in ("sbatch", "slurmd", "munged")):
        pytest.skip("SLURM is missing: apt-get install slurm-wlm munge")
    if importlib.util.find_spec("snakemake_executor_plugin_slurm") is None:
        pytest.skip("the executor is missing: pip install snakemake-executor-plugin-slurm")
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
        make_whole(folder)
    finish(start(here, "--cores", 1))
    profile = ("--workflow-profile", ROOT / "profiles" / "slurm")
    # A cluster without accounts has no sacct; jobs are short.
    options = ["--jobs", 2, "--slurm-status-command", "squeue"]
    options += ["--slurm-init-seconds-before-status-checks", 1, "--seconds-between-status-checks", 1]
    messages = finish(start(there, *profile, *options, wrapper=CLUSTER))
    assert messages.count("has been submitted with SLURM jobid") == JOBS - 1  # all but the rule `all`
    assert left_by(there) == left_by(here)
