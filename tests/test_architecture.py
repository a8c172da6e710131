"""Layers, import cycles, and the size of files and functions, read from the source."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import atlasmith

PACKAGE = Path(atlasmith.__file__).parent
# A room may import those of the layers before its own.
LAYERS = [
    ["core"],
    ["io", "transforms"],
    ["config"],
    ["losses", "networks", "workflow"],
    ["training", "optimization"],
    [
        "cohort",
        "preprocess",
        "affine",
        "template",
        "registration",
        "propagation",
        "fusion",
        "evaluation",
        "report",
        "demo",
    ],
    ["inference", "launch"],
    ["cli"],
]
ROOMS = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}
LONGEST_FILE, LONGEST_FUNCTION = 400, 60


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(source: str, package: str) -> set[str]:
    """Names after each import of atlasmith: modules, and names in modules. Those for type checkers count."""
    names: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            base += node.module.split(".") if node.module else []
            names += [".".join([*base, alias.name]) for alias in node.names]
    return {name for name in names if name.startswith("atlasmith.")}


FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = {module_name(path): path for path in FILES}


def package_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).parent.parts)


def dependencies(path: Path) -> set[str]:
    """The modules that a file imports at its top level, an `__init__` for a name that it exports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    guarded = {
        id(child)
        for node in tree.body
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in ast.walk(node)
    }
    top = [node for node in tree.body if id(node) not in guarded]
    names = imported_modules(ast.unparse(ast.Module(top, [])), package_of(path))
    own = module_name(path)
    return {known for name in names if (known := _nearest(name)) and known != own}


def _nearest(name: str) -> str | None:
    return (
        name if name in MODULES else name.rpartition(".")[0] if name.rpartition(".")[0] in MODULES else None
    )


def test_the_reader_of_imports_sees_every_form() -> None:
    source = "import atlasmith.io.tables\nfrom atlasmith import core\nfrom atlasmith.losses import x\n"
    source += "def f():\n    from .. import fusion\n    from ..core import Grid\n    from . import own\n"
    assert {name.split(".")[1] for name in imported_modules(source, "atlasmith.affine")} == {
        "io",
        "core",
        "losses",
        "fusion",
        "affine",
    }


def test_every_file_is_in_a_room() -> None:
    assert {path.relative_to(PACKAGE).parts[0] for path in FILES} == {*ROOMS, "__init__.py"}


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_lower_layers_alone(room: str) -> None:
    """A stage never imports another stage: they meet in files."""
    for path in sorted((PACKAGE / room).rglob("*.py")):
        names = imported_modules(path.read_text(encoding="utf-8"), package_of(path))
        used = {name.split(".")[1] for name in names} - {room, "__version__"}
        above = {other for other in used if ROOMS.get(other, 0) >= ROOMS[room]}
        assert not above, f"{path} imports {above}"


def test_there_is_no_import_cycle() -> None:
    graph = {name: dependencies(path) for name, path in MODULES.items() if name != "atlasmith"}
    done: set[str] = set()
    for start in graph:
        trail: list[str] = []

        def visit(name: str, trail: list[str]) -> None:
            assert name not in trail, " -> ".join([*trail[trail.index(name) :], name])
            if name in done or name not in graph:
                return
            for other in sorted(graph[name]):
                # A package's own __init__ imports its modules; that is no dependency of them.
                if not name.startswith(other + "."):
                    visit(other, [*trail, name])
            done.add(name)

        visit(start, trail)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_and_functions_are_short(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= LONGEST_FILE
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
            docstring = (first.end_lineno or 0) - first.lineno + 1 if documented else 0
            length = (node.end_lineno or 0) - node.lineno + 1 - docstring
            assert length <= LONGEST_FUNCTION, f"{node.name} has {length} lines"
