"""The package uses the standard terms of the field: the private words of its early versions are gone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WORDS = (
    "people|persons?|someone|anyone|nobody|everybody|newcomers?|voters?|jur(y|ies)|courts?|verdicts?|hearings?|"
    "second_thoughts|rehearsals?|audit(s|ed)?|twins?|lookat|strangeness"
)
# Where the old words are listed beside the new ones, or figures of the past are told.
EXCEPTIONS = {"renamed.py", "CHANGELOG.md", "research-log.md", "results.md"}
FILES = [
    path
    for folder, pattern in (
        ("src", "*.py"),
        ("src", "*.smk"),
        ("src", "Snakefile"),
        ("docs", "*.md"),
        ("examples", "*.yaml"),
        (".", "*.md"),
        (".", "*.yaml"),
        (".", "Snakefile"),
    )
    for path in sorted((ROOT / folder).glob(pattern) if folder == "." else (ROOT / folder).rglob(pattern))
    if path.name not in EXCEPTIONS
]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_word_of_the_early_versions_is_left(path: Path) -> None:
    found = [
        f"{number}: {line.strip()}"
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if re.search(rf"\b({WORDS})\b", line, re.IGNORECASE)
    ]
    assert not found, f"{path.name}: {found[:5]}"
