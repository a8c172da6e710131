"""Processes on one machine compute on different GPUs, as far as there are some."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from atlasmith.training import sharing

HOLD = (
    "import sys; from atlasmith.training.sharing import claim_gpu; print(claim_gpu(2), flush=True); input()"
)


@pytest.fixture(autouse=True)
def _own_claims(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    for name in ("LOCAL_RANK", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sharing, "_HELD", [])
    sharing.claim_gpu.cache_clear()


def test_each_process_gets_the_gpu_that_fewest_have(tmp_path: Path) -> None:
    started, found = [], []
    try:
        for _ in range(3):
            process = subprocess.Popen(
                [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            started.append(process)
            assert process.stdout is not None
            found.append(int(process.stdout.readline()))
        assert found == [0, 1, 0]
        started[1].kill()
        started[1].wait()
        assert sharing.claim_gpu(2) == 1  # that of the killed process
        assert sharing.claim_gpu(2) == 1
    finally:
        for process in started:
            process.kill()


def test_torchrun_decides_for_its_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert sharing.claim_gpu(2) == 0
    monkeypatch.delenv("LOCAL_RANK")
    sharing.claim_gpu.cache_clear()
    assert sharing.claim_gpu(2) == 1  # others make way


@pytest.mark.parametrize("count", [1, 3])
def test_without_locks_there_are_no_claims(
    count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in tmp_path.glob("*"):
        name.unlink()
    (tmp_path / f"atlasmith-gpus-{os.getuid()}").write_text("of another user")
    assert sharing.claim_gpu(count) == os.getpid() % count
