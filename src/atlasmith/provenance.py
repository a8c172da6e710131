"""Which software made a file."""

from __future__ import annotations

import platform
from importlib.metadata import version

from atlasmith import __version__


def generated_by() -> dict[str, str]:
    """Name and version of this package, of Python, and of the packages that results depend on."""
    packages = {name: version(name) for name in ("torch", "SimpleITK", "nibabel", "numpy")}
    return {"Name": "atlasmith", "Version": __version__, "Python": platform.python_version(), **packages}
