"""Every key is described, in the schema and in the docs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from pydantic.fields import FieldInfo

from atlasmith.config import Config
from atlasmith.config.section import Section


def keys(model: type[Section], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        key = prefix + (field.alias or name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from keys(field.annotation.complete(), key + ".")
        else:
            yield key, field


def test_every_key_has_a_description() -> None:
    assert [key for key, field in keys(Config) if not field.description] == []


def test_the_docs_list_every_key() -> None:
    text = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `([a-z0-9_.]+)` \|", text, flags=re.MULTILINE)
    assert sorted(listed) == sorted(key for key, _ in keys(Config))
