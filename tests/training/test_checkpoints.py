"""Resumable state on disk."""

from pathlib import Path

import pytest
import torch

from atlasmith.core import distributed
from atlasmith.training.checkpoints import Checkpoint

VALUES = {"step": 3, "rows": [{"loss": 0.5}, {"loss": float("inf")}]}
TENSORS = {"weight": torch.arange(6.0).view(2, 3), "count": torch.tensor(7)}


def saved(path: Path, digest: str = "a") -> Checkpoint:
    checkpoint = Checkpoint(path, digest)
    checkpoint.save(VALUES, TENSORS)
    return checkpoint


def test_load_gives_what_was_saved(tmp_path: Path) -> None:
    saved(tmp_path / "model" / "checkpoint.safetensors")
    found = Checkpoint(tmp_path / "model" / "checkpoint.safetensors", "a").load()
    assert found is not None
    values, tensors = found
    assert values == VALUES
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype and torch.equal(tensors[name], tensor)


def test_save_replaces_the_state(tmp_path: Path) -> None:
    checkpoint = saved(tmp_path / "checkpoint.safetensors")
    checkpoint.save({"step": 4}, {"weight": torch.zeros(1)})
    found = checkpoint.load()
    assert found is not None and found[0] == {"step": 4} and found[1].keys() == {"weight"}
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.safetensors"]


def test_there_is_nothing_to_load_before_the_first_save(tmp_path: Path) -> None:
    assert Checkpoint(tmp_path / "checkpoint.safetensors", "a").load() is None


def test_a_state_with_another_digest_is_ignored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = saved(tmp_path / "checkpoint.safetensors").path
    assert Checkpoint(path, "b").load() is None
    assert f"{path} belongs to another config or cohort" in capsys.readouterr().out
    assert Checkpoint(path, "a").load() is not None, "it stays until it is replaced"


def test_remove_deletes_the_state_where_there_is_one(tmp_path: Path) -> None:
    checkpoint = saved(tmp_path / "checkpoint.safetensors")
    for _ in range(2):
        checkpoint.remove()
        assert checkpoint.load() is None and not checkpoint.path.exists()


def test_the_main_process_alone_saves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    assert not saved(tmp_path / "checkpoint.safetensors").path.exists()
