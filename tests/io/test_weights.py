"""Files that are no weights are refused, and nothing in them is executed."""

from __future__ import annotations

import os
import pickle
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from atlasmith.core.errors import AtlasmithError
from atlasmith.io.weights import read_weights, write_tensors


class Executed:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch pwned",)


@pytest.mark.parametrize(
    "bytes_",
    [pickle.dumps(Executed()), b"", b"\xff" * 64, (1 << 40).to_bytes(8, "little") + b"{}"],
    ids=["a pickle", "nothing", "a header of no size", "a header beyond the file"],
)
def test_weights_that_are_none(bytes_: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "template.safetensors"
    path.write_bytes(bytes_)
    with pytest.raises(AtlasmithError, match=r"template\.safetensors"):
        read_weights(path)
    assert not (tmp_path / "pwned").exists()


def test_weights_are_readable_as_other_files_are(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        write_tensors(tmp_path / "a.safetensors", {"a": torch.arange(3)}, {"b": 1})
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.safetensors").stat().st_mode) == 0o644
    about, tensors = read_weights(tmp_path / "a.safetensors")
    assert about == {"b": 1} and tensors["a"].tolist() == [0, 1, 2]


def test_weights_that_may_not_be_read_are_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.safetensors"
    write_tensors(path, {}, {})

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(
        AtlasmithError, match=r"can't be read \(Permission denied\).*the right to read"
    ) as found:
        read_weights(path)
    assert "train" not in str(found.value).lower()
