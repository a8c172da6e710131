"""The GPUs that jobs ask for. `nvidia-smi` and torch's count are replaced; nothing is computed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from dry_runs import ROLES, make_cohort, snakemake, write_config

from atlasmith.config import Config, parse_config
from atlasmith.core.errors import InputError
from atlasmith.core.machine import count_gpus
from atlasmith.launch.request import Request
from atlasmith.launch.snakemake import command
from atlasmith.workflow.resources import GPU_STAGES, check_gpus, gpus


@pytest.fixture(autouse=True)
def _count_anew() -> None:
    count_gpus.cache_clear()


def fake_gpus(folder: Path, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `nvidia-smi -L` list `count` GPUs, and torch count them, here and in processes started here."""
    script = folder / "bin" / "nvidia-smi"
    script.parent.mkdir()
    lines = [f"echo 'GPU {index}: NVIDIA H100 (UUID: GPU-{index})'" for index in range(count)]
    script.write_text("\n".join(["#!/bin/sh", *lines, "echo '  MIG 1g.10gb Device 0: (UUID: MIG-1)'"]))
    script.chmod(0o755)
    counted = f"import torch\ntorch.cuda.device_count = lambda: {count}\n"
    (folder / "bin" / "sitecustomize.py").write_text(counted)
    monkeypatch.setenv("PATH", str(script.parent), prepend=":")
    monkeypatch.setenv("PYTHONPATH", str(script.parent), prepend=":")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


def resources_of_jobs(text: str) -> dict[str, dict[str, str]]:
    """Read the resources of each rule from a dry run, with threads and the command."""
    found = {}
    for rule, job in re.findall(
        r"^rule (\w+):\n((?:    .*\n|Shell command: .*\n)*)", text, flags=re.MULTILINE
    ):
        threads = re.search(r"threads: (\d+)", job)
        resources = re.search(r"resources: (.*)", job)
        pairs = resources[1].split(", ") if resources else []
        found[rule] = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
        found[rule] |= {"threads": threads[1] if threads else "1", "cpu": str("--device cpu" in job)}
    return found


def config(**values: object) -> Config:
    return parse_config({"cohort": {"bids": "d"}, **values})


def test_gpus_that_torch_can_use_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_gpus(tmp_path, 4, monkeypatch)
    assert count_gpus() == 4
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)  # the CPU build of torch
    count_gpus.cache_clear()
    assert count_gpus() == 0


def test_no_nvidia_smi_means_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert count_gpus() == 0


def test_gpus_follow_from_the_config() -> None:
    for stage in GPU_STAGES:
        assert gpus(stage, config(device="cpu"), here=2) == 0
        assert gpus(stage, config(), here=0) == gpus(stage, config(), here=None) == 0
        assert gpus(stage, config(), here=2) == gpus(stage, config(device="cuda"), here=None) == 1
    assert gpus("template", config(processes=2), here=2) == 2
    assert gpus("score", config(device="cuda"), here=2) == 0


def test_a_machine_with_too_few_gpus_is_told_beforehand() -> None:
    with pytest.raises(InputError, match=r"device: 'cuda', and this machine shows no GPU.*device: auto"):
        check_gpus(config(device="cuda"), here=0)
    with pytest.raises(InputError, match=r"processes: 4, and this machine has 2 GPUs.*processes: 2"):
        check_gpus(config(processes=4), here=2)
    check_gpus(config(processes=4), here=0)  # on the CPU processes share the cores
    check_gpus(config(processes=4, device="cpu"), here=2)


def test_jobs_ask_for_gpus_and_a_profile_names_stages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_gpus(tmp_path, 2, monkeypatch)
    path = write_config(tmp_path, make_cohort(tmp_path / "bids", ROLES), processes=2)
    asked = ("--set-resources", "propagate:gpu=0", "register:mem_mb=attempt*777", "--set-threads", "score=2")
    result = snakemake(tmp_path, "--dry-run", "-p", "--configfile", path, *asked)
    assert result.returncode == 0, result.stdout
    jobs = resources_of_jobs(result.stdout)
    assert jobs["template"]["gpu"] == "2" and jobs["fuse_train"]["gpu"] == "1"
    assert "gpu" not in jobs["affine_1"]
    for number in (1, 2):
        assert jobs[f"register_{number}"]["gpu"] == "1" and jobs[f"register_{number}"]["mem_mb"] == "777"
        assert jobs[f"score_{number}"]["threads"] == "2"
    # A job that the profile gives no GPU stays on the CPU, and all others are free to choose.
    on_cpu = {name for name, job in jobs.items() if job["cpu"] == "True"}
    assert on_cpu == {name for name in jobs if name.startswith("propagate")} and on_cpu
    assert {jobs[name]["gpu"] for name in on_cpu} == {"0"}


def test_on_the_cpu_jobs_ask_for_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_gpus(tmp_path, 2, monkeypatch)
    path = write_config(tmp_path, make_cohort(tmp_path / "bids", ROLES), device="cpu")
    result = snakemake(tmp_path, "--dry-run", "-p", "--configfile", path)
    assert result.returncode == 0, result.stdout
    jobs = resources_of_jobs(result.stdout)
    assert {jobs[name]["gpu"] for name in ("template", "register_1", "fuse_train")} == {"0"}
    assert not any(job["cpu"] == "True" for job in jobs.values())


def test_jobs_share_the_gpus_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_gpus(tmp_path, 2, monkeypatch)

    def limits(*arguments: str, profile: str | None = None) -> dict[str, str]:
        request = Request(tmp_path, tmp_path / "out", arguments=arguments, profile=profile)
        words = command(request, config(output=str(tmp_path / "out")))
        last = len(words) - 1 - words[::-1].index("--resources")
        return dict(word.split("=") for word in words[last + 1 :] if "=" in word)

    assert limits()["gpu"] == "2" and int(limits()["mem_mb"]) > 100
    assert limits("--resources", "gpu=6")["gpu"] == "6"
    more = limits("--resources", "mem_mb=5", "downloads=3", "--keep-incomplete")
    assert more == {"mem_mb": "5", "gpu": "2", "downloads": "3"}
    for words in (["--resources=gpu=6"], ["--res", "gpu=6"], ["--resourc", "gpu=6"]):
        assert limits(*words)["gpu"] == "6"
    profile = tmp_path / "mine"
    profile.mkdir()
    (profile / "config.yaml").write_text("resources: {gpu: 8}\nset-resources: {register: {mem_mb: 9}}\n")
    assert limits(profile=str(profile))["gpu"] == "8"  # a profile of this machine isn't a cluster
    assert limits("--resources", "gpu=1", profile=str(profile))["gpu"] == "1"


def test_jobs_run_elsewhere_where_the_executor_says_so(tmp_path: Path) -> None:
    def elsewhere(*arguments: str, profile: str | None = None) -> bool:
        return Request(tmp_path, tmp_path / "out", arguments=arguments, profile=profile).is_cluster

    assert not elsewhere() and not elsewhere(profile="default") and not elsewhere("-e", "local")
    assert elsewhere(profile="slurm") and elsewhere("--executor=slurm") and elsewhere("-e", "slurm")
    assert not elsewhere("--executor", "local", profile="slurm")


def test_cuda_without_a_gpu_is_refused_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    path = write_config(tmp_path, make_cohort(tmp_path / "bids", ROLES), device="cuda")
    result = snakemake(tmp_path, "--cores", 1, "--configfile", path)
    assert result.returncode != 0 and "Set `device: auto`" in result.stdout
    assert not (tmp_path / "results" / "cohort.tsv").exists()
