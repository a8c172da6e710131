"""Paths as a shell expands them, and the lock of an output folder."""

from __future__ import annotations

import errno
import fcntl
import subprocess
import sys
from pathlib import Path

import pytest

from atlasmith.io.files import expand_path, lock


def test_paths_are_expanded_as_by_a_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("STUDY", "/data/study")
    monkeypatch.setenv("BACK", "~/back")
    for path, expected in {
        "~": tmp_path,
        "~/results": tmp_path / "results",
        "$STUDY/bids": Path("/data/study/bids"),
        "${STUDY}2/$STUDY": Path("/data/study2/data/study"),
        "$BACK": tmp_path / "back",
        "results~": Path("results~"),
        "a/~/b": Path("a/~/b"),
        "price$": Path("price$"),
    }.items():
        assert expand_path(path) == expected
        assert expand_path(Path(path)) == expected


@pytest.mark.parametrize(
    ("path", "named"),
    [("$NOWHERE/bids", "NOWHERE"), ("a/${NO_WHERE}", "NO_WHERE"), ("~nobody-of-that-name/x", "~nobody-of")],
)
def test_what_is_not_known_is_named(monkeypatch: pytest.MonkeyPatch, path: str, named: str) -> None:
    monkeypatch.delenv("NOWHERE", raising=False)
    with pytest.raises(ValueError, match=named):
        expand_path(path)


def test_a_lock_is_released_when_its_process_ends(tmp_path: Path) -> None:
    path = tmp_path / "results" / ".lock"
    code = (
        "import sys, time; from pathlib import Path; from atlasmith.io.files import lock; "
        "held = lock(Path(sys.argv[1])); print('locked', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    with pytest.raises(BlockingIOError):
        lock(path)
    process.kill()
    process.wait()
    process.stdout.close()
    held = lock(path)
    assert held is not None
    held.release()


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(number, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)
    assert lock(tmp_path / ".lock") is None


def test_a_folder_that_can_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        lock(tmp_path / "file" / ".lock")
