"""Stages meet through files: no stage imports another, and common ground imports no stage."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import atlasmith

PACKAGE = Path(atlasmith.__file__).parent
STAGES = [
    "cohort",
    "affine",
    "subpopulations",
    "template",
    "register",
    "propagate",
    "fusion",
    "scoring",
    "report",
    "demo",
]
# The command line calls every stage, and so does the way of someone new through them; the check of a config's
# names reads the stages' tables of choices.
SEE_ALL = {"cli", "choices", "inference"}


def imported(source: str, package: str) -> set[str]:
    """The parts of atlasmith that a module of `package` imports: {'io', 'warp'} for io.tables and warp."""
    names: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            base += node.module.split(".") if node.module else []
            names += [".".join([*base, alias.name]) for alias in node.names]
    return {name.split(".")[1] for name in names if name.startswith("atlasmith.")}


def parts() -> dict[str, list[Path]]:
    """The files of each part: a module, or a package with all that is in it."""
    found: dict[str, list[Path]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        found.setdefault(path.relative_to(PACKAGE).parts[0].removesuffix(".py"), []).append(path)
    return found


def test_the_reader_of_imports_sees_every_form() -> None:
    source = "import atlasmith.io.tables\nfrom atlasmith import warp\nfrom atlasmith.losses import x\n"
    source += "def f():\n    from .. import fusion\n    from ..geometry import Grid\n    from . import own\n"
    assert imported(source, "atlasmith.affine") == {"io", "warp", "losses", "fusion", "geometry", "affine"}


def test_every_stage_is_there() -> None:
    assert set(STAGES) <= set(parts())


@pytest.mark.parametrize("part", sorted(set(parts()) - SEE_ALL))
def test_stages_meet_only_through_files(part: str) -> None:
    forbidden = set(STAGES) - {part}
    for path in parts()[part]:
        package = ".".join(["atlasmith", *path.relative_to(PACKAGE).parent.parts])
        assert not imported(path.read_text(encoding="utf-8"), package) & forbidden, path
