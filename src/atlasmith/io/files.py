"""Files that are written completely or not at all, and a lock."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from atlasmith.core.errors import AtlasmithError

NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)  # of file systems without locks


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


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder beside `path`, which replaces it when the block ends without an exception.

    Args:
        path: The folder to write.

    Yields:
        An empty folder.
    """
    partial = path.with_name(f".partial-{os.getpid()}-{path.name}")
    partial.mkdir(parents=True)
    try:
        yield partial
        shutil.rmtree(path, ignore_errors=True)
        partial.replace(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def lock(path: Path) -> FileLock | None:
    """Lock a file.

    Args:
        path: The file; it is made if there is none.

    Returns:
        The lock, which is released when nothing refers to it any more, or when this process ends. None on a
        file system without locks, as Lustre and NFS can be.

    Raises:
        BlockingIOError: If another process holds the lock.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    held = FileLock(path, fallback_to_soft=False)  # a marker file would outlive a killed process
    try:
        held.acquire(blocking=False)
    except Timeout:
        raise BlockingIOError(errno.EWOULDBLOCK, os.strerror(errno.EWOULDBLOCK), str(path)) from None
    except OSError as error:
        if error.errno in NO_LOCKS:
            return None
        raise
    return held


def expand_path(path: str | Path) -> Path:
    """Expand `~` and environment variables in a path, as a shell does.

    Args:
        path: Such as `~/results` or `$DATA/bids`.

    Raises:
        ValueError: For a variable that isn't set, or a home folder that isn't known.

    Example:
        >>> os.environ["STUDY"] = "/data/study"
        >>> expand_path("$STUDY/bids").as_posix()
        '/data/study/bids'
    """
    names = (match[1] or match[2] for match in re.finditer(r"\$(?:(\w+)|\{([^}]*)\})", str(path)))
    for name in names:
        if name not in os.environ:
            raise ValueError(f"the environment variable {name} isn't set")
    expanded = os.path.expanduser(os.path.expandvars(path))
    if expanded.startswith("~"):
        raise ValueError(f"the home folder {expanded.split('/')[0]} isn't known")
    return Path(expanded)


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


def nifti_files(folder: Path, scan: str, suffix: str) -> list[Path]:
    """List a scan's NIfTI files.

    Args:
        folder: The BIDS folder, or that of a derivative.
        scan: Id without `sub-`: `01`, or with a session `01_ses-02`.
        suffix: Last part of the names, such as `T1w`.

    Returns:
        `folder`/sub-X[/ses-Y]/anat/sub-X[_ses-Y][_*]_<suffix>.nii[.gz], sorted.
    """
    folder = folder.joinpath(*f"sub-{scan}".split("_"), "anat")
    pattern = re.compile(rf"sub-{scan}(_.*)?_{re.escape(suffix)}\.nii(\.gz)?")
    return sorted(path for path in folder.glob("*") if pattern.fullmatch(path.name))


def require(path: Path, stage: str) -> Path:
    """Return a path, which an earlier stage writes.

    Raises:
        AtlasmithError: If it is missing.
    """
    if not path.exists():
        raise AtlasmithError(f"{path} is missing. Run `atlasmith {stage}` first.")
    return path
