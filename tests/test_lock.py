"""The lock file pins what pyproject.toml asks for, each with hashes."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]


def test_every_dependency_is_pinned_within_its_bounds_and_has_a_hash() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [Requirement(text) for text in project["dependencies"]]
    wanted += [Requirement(text) for name in ("demo", "dev", "docs") for text in extras[name]]
    entries = (ROOT / "requirements.lock").read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    pinned = {}
    for entry in (line for line in entries if not line.startswith("#")):
        name, version = re.split("==", entry.split()[0])
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), entry
        pinned[canonicalize_name(name)] = version
    for requirement in wanted:
        if requirement.name != project["name"]:
            assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), requirement
