"""The documentation: links, configs, commands, examples, generated parts, and the site."""

from __future__ import annotations

import doctest
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

import atlasmith
from atlasmith.cli.main import parse
from atlasmith.config import parse_config
from atlasmith.config.choices import check_choices
from atlasmith.config.renamed import RENAMED, RENAMED_METHODS
from atlasmith.evaluation.metrics import METRICS
from atlasmith.losses import REGULARIZERS, SIMILARITY
from atlasmith.optimization import OPTIMIZERS
from atlasmith.transforms import PARAMETRIZATIONS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PACKAGE = Path(atlasmith.__file__).parent
sys.path.insert(0, str(DOCS))

import generate  # noqa: E402

PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
WRITTEN_BY_HAND = [page for page in PAGES if page.name not in ("results.md", "research-log.md")]
FENCE = re.compile(r"^( *)```(\S*) ?(.*)\n((?:.*\n)*?)\1```$", re.MULTILINE)
LINK = re.compile(r"\]\(<?([^)\s>]+)>?\)")
NEED_A_RUN = {"inference/image.py"}  # tests/inference runs the examples of these with one


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(page: Path) -> Iterator[tuple[str, str, str]]:
    """Yield language, title and text of each fenced block."""
    for match in FENCE.finditer(page.read_text(encoding="utf-8")):
        title = re.search(r'title="(.*)"', match[3])
        yield match[2], title[1] if title else "", textwrap.dedent(match[4])


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and the site make them."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_and_images_resolve(page: Path) -> None:
    for target in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert file.is_relative_to(ROOT), target
        if anchor:
            assert anchor in anchors(file), target


def test_every_picture_is_shown_and_small() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    for path in sorted((DOCS / "images").iterdir()):
        assert f"images/{path.name})" in text, path.name
        assert path.stat().st_size < 200_000, path.name


CONFIGS = [
    pytest.param(title, text, id=f"{name_of(page)}-{number}")
    for page in WRITTEN_BY_HAND
    for number, (language, title, text) in enumerate(blocks(page), start=1)
    if language == "yaml"
]


@pytest.mark.parametrize(("title", "text"), CONFIGS)
def test_configs_parse(title: str, text: str) -> None:
    """A block of YAML is a config, or part of one, and its title says which."""
    assert re.fullmatch(r"(part of )?\w+\.yaml", title)
    values = yaml.safe_load(text)
    if title.startswith("part of"):
        values["cohort"] = {"bids": "data"} | values.get("cohort", {})
    check_choices(parse_config(values))


def commands() -> Iterator[tuple[str, str]]:
    for page in WRITTEN_BY_HAND:
        for _, _, text in blocks(page):
            for line in text.replace("\\\n", " ").splitlines():
                if line.startswith("atlasmith "):
                    yield name_of(page), line


@pytest.mark.parametrize(("page", "line"), commands())
def test_commands_parse(page: str, line: str) -> None:
    parse(shlex.split(line)[1:])


@pytest.mark.parametrize("page", [DOCS / "howto" / "python.md", ROOT / "CONTRIBUTING.md"], ids=name_of)
def test_python_examples_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = [text for language, _, text in blocks(page) if language == "python"]
    assert found
    names: dict[str, Any] = {}
    for text in found:  # one after another
        exec(compile(text, page.name, "exec", dont_inherit=True), names)


EXAMPLES = [
    path
    for path in sorted(PACKAGE.rglob("*.py"))
    if ">>>" in path.read_text(encoding="utf-8") and path.relative_to(PACKAGE).as_posix() not in NEED_A_RUN
]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_docstring_examples_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(ROOT / "config.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    result = doctest.testmod(import_module(module), extraglobs={"folder": tmp_path})
    assert result.attempted and not result.failed


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=name_of)
def test_generated_parts_are_current(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert generate.current(text) == text, "run: make docs"


def test_every_part_is_on_a_page() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in DOCS.rglob("*.md"))
    shown = [match[2] for match in generate.GENERATED.finditer(text)]
    assert sorted(shown) == sorted(generate.PARTS)


@pytest.mark.parametrize(
    ("kind", "table"),
    [
        ("similarity", SIMILARITY),
        ("regularizer", REGULARIZERS),
        ("metric", METRICS),
        ("parametrization", PARAMETRIZATIONS),
        ("optimizer", OPTIMIZERS),
    ],
)
def test_formulas_are_of_entries(kind: str, table: dict[str, Any]) -> None:
    assert set(generate.formulas_of(kind)) <= set(table)


def test_the_changelog_and_the_citation_are_of_this_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## (\d\S*)", changelog, flags=re.MULTILINE)
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert newest and newest[1] == citation["version"] == atlasmith.__version__


def test_the_changelog_lists_renamed_keys() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    for old, new in RENAMED.items():
        assert f"| `{old}` | `{new}` |" in changelog
    for old, new in RENAMED_METHODS.items():
        assert f"| `{old}` (method) | `{new}` |" in changelog


def test_the_site_builds_without_warnings_and_network(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="mkdocs isn't installed: pip install 'atlasmith[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded = r'<(?:script|img|iframe)[^>]* src="https?://|<link[^>]* rel="stylesheet" href="https?://'
    for page in tmp_path.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.search(loaded, text), page.name
        assert "arithmatex" not in text, f"{page.name}: a formula wasn't typeset"
