"""Which software made a file, and from what."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path

from atlasmith import __version__
from atlasmith.io.tables import Subject


def made_with() -> dict[str, str]:
    """Versions of this package, of Python, and of the packages that results depend on, by name."""
    packages = {name: version(name) for name in ("torch", "SimpleITK", "nibabel", "numpy")}
    return {"atlasmith": __version__, "Python": platform.python_version(), **packages}


def fingerprint(inputs: Path, subjects: Sequence[Subject]) -> str:
    """A short hash of who they are, of their covariates, and of their files as the lines of `checksums` in
    `inputs` have them: what is learned from others is no start for what is learned from these."""
    known: dict[str, str] = {}
    if inputs.exists():
        for line in inputs.read_text(encoding="utf-8").splitlines():
            hashed, path = line.split("  ", 1)
            known[path] = hashed
    who = [
        (s.id, s.role, s.covariates, *(known.get(str(f.absolute())) for f in (s.image, s.labels) if f))
        for s in subjects
    ]
    return hashlib.sha256(repr(who).encode()).hexdigest()[:12]


def checksums(files: Iterable[Path]) -> str:
    """A line a file, as `sha256sum --check` reads them."""
    lines = []
    for path in files:
        with path.open("rb") as file:
            lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {path.absolute()}\n")
    return "".join(lines)
