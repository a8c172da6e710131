"""Which software made a file, and from what."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path

from atlasmith import __version__
from atlasmith.config import Config
from atlasmith.io.tables import Subject


def software_versions() -> dict[str, str]:
    """List versions of this package, of Python, and of the packages that results depend on, by name."""
    packages = {name: version(name) for name in ("torch", "SimpleITK", "nibabel", "numpy")}
    return {"atlasmith": __version__, "Python": platform.python_version(), **packages}


def training_digest(config: Config, sections: Iterable[str], subjects: Sequence[Subject]) -> str:
    """Identify what a training depends on, so that a checkpoint of another one isn't resumed.

    Args:
        config: The run's config.
        sections: Its sections that the training depends on.
        subjects: Whose images and labels it uses.

    Returns:
        Hashes of the config and of the subjects' rows and files, and the version.
    """
    inputs = config.layout.inputs
    return f"{config.digest(*sections)}-{subjects_digest(inputs, subjects)}-{__version__}"


def subjects_digest(inputs: Path, subjects: Sequence[Subject]) -> str:
    """Hash ids, roles, covariates, and the checksums in `inputs` of the subjects' files."""
    sums: dict[str, str] = {}
    if inputs.exists():
        for line in inputs.read_text(encoding="utf-8").splitlines():
            hashed, path = line.split("  ", 1)
            sums[path] = hashed
    rows = [
        (s.id, s.role, s.covariates, *(sums.get(str(file.absolute())) for file in s.files)) for s in subjects
    ]
    return hashlib.sha256(repr(rows).encode()).hexdigest()[:12]


def checksums(files: Iterable[Path]) -> str:
    """Give a line a file, in the format of `sha256sum --check`."""
    lines = []
    for path in files:
        with path.open("rb") as file:
            lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {path.absolute()}\n")
    return "".join(lines)
