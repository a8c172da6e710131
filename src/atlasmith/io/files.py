"""Files that are written completely or not at all, and a lock."""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from atlasmith.core.errors import AtlasmithError


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path`, which replaces it when the block ends without an exception.

    Args:
        path: The file to write; its folder is made.

    Yields:
        A path with the same extensions.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".partial-{os.getpid()}-{path.name}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def lock(path: Path) -> IO[bytes]:
    """Open and lock a file.

    Args:
        path: The file; it is made if there is none.

    Returns:
        The open file. The lock is released when it is closed, or when this process ends.

    Raises:
        BlockingIOError: If another process holds the lock.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise
    return file


def write_text(path: str | Path, text: str) -> None:
    """Write text in UTF-8."""
    with atomic_write(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON with two spaces of indentation."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(path: str | Path) -> Any:
    """Read JSON."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def nifti_files(folder: Path, subject: str, suffix: str) -> list[Path]:
    """List a subject's NIfTI files.

    Args:
        folder: The BIDS folder, or that of a derivative.
        subject: Id without `sub-`.
        suffix: Last part of the names, such as `T1w`.

    Returns:
        Absolute paths of `sub-X/anat/sub-X[_*]_<suffix>.nii[.gz]`, sorted.
    """
    folder = Path(os.path.abspath(folder / f"sub-{subject}" / "anat"))
    pattern = re.compile(rf"sub-{subject}(_.*)?_{re.escape(suffix)}\.nii(\.gz)?")
    return sorted(path for path in folder.glob("*") if pattern.fullmatch(path.name))


def require(path: Path, stage: str) -> Path:
    """Return a path, which an earlier stage writes.

    Raises:
        AtlasmithError: If it is missing.
    """
    if not path.exists():
        raise AtlasmithError(f"{path} is missing. Run `atlasmith {stage}` first.")
    return path
