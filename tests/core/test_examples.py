"""The examples in docstrings run."""

import doctest
from importlib import import_module
from pathlib import Path

import pytest

import atlasmith

PACKAGE = Path(atlasmith.__file__).parent
ROOMS = ["core", "losses", "networks", "transforms"]
MODULES = [
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    for room in ROOMS
    for path in sorted((PACKAGE / room).rglob("*.py"))
    if ">>>" in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("module", MODULES)
def test_examples_run(module: str, tmp_path: Path) -> None:
    result = doctest.testmod(import_module(module), extraglobs={"folder": tmp_path})
    assert result.attempted and not result.failed
