"""Which software made a file, and from what."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

from atlasmith import __version__


def made_with() -> dict[str, str]:
    """Versions of this package, of Python, and of the packages that results depend on, by name."""
    packages = {name: version(name) for name in ("torch", "SimpleITK", "nibabel", "numpy")}
    return {"atlasmith": __version__, "Python": platform.python_version(), **packages}


def checksums(files: Iterable[Path]) -> str:
    """A line a file, as `sha256sum --check` reads them."""
    lines = []
    for path in files:
        with path.open("rb") as file:
            lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {path.absolute()}\n")
    return "".join(lines)
