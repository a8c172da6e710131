"""Files that are no weights are refused, and nothing in them is executed."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from atlasmith.core.errors import AtlasmithError
from atlasmith.io.weights import read_weights


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
