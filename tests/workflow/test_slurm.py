"""A run through SLURM's sbatch, on a cluster of this machine alone, gives the results of a local one."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest
from small_run import JOBS, ROOT, finish, make_small_run, result_hashes, start

from atlasmith.workflow import PROFILES

CLUSTER = ROOT / "tests" / "cluster" / "slurm.sh"


@pytest.mark.slow
def test_slurm_gives_the_same_results(tmp_path: Path) -> None:
    if not all(shutil.which(tool, path="/usr/bin:/usr/sbin") for tool in ("sbatch", "slurmd", "munged")):
        pytest.skip("SLURM is missing: apt-get install slurm-wlm munge")
    if importlib.util.find_spec("snakemake_executor_plugin_slurm") is None:
        pytest.skip("the executor is missing: pip install snakemake-executor-plugin-slurm")
    local, cluster = tmp_path / "local", tmp_path / "cluster"
    for folder in (local, cluster):
        folder.mkdir()
        make_small_run(folder)
    finish(start(local, "--cores", 1))
    profile = ("--workflow-profile", PROFILES / "slurm")
    # A cluster without accounts has no sacct; jobs are short.
    options = ["--jobs", 2, "--slurm-status-command", "squeue"]
    options += ["--slurm-init-seconds-before-status-checks", 1, "--seconds-between-status-checks", 1]
    messages = finish(start(cluster, *profile, *options, wrapper=CLUSTER))
    assert messages.count("has been submitted with SLURM jobid") == JOBS - 1  # all but the rule `all`
    assert result_hashes(cluster) == result_hashes(local)
