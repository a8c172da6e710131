"""Tables are read as they are written: without quoting, and without mending."""

from __future__ import annotations

from pathlib import Path

import pytest

from atlasmith.core.errors import AtlasmithError, InputError
from atlasmith.io.tables import read_tsv, write_tsv


def read(folder: Path, content: bytes) -> list[dict[str, str]]:
    path = folder / "table.tsv"
    path.write_bytes(content)
    return read_tsv(path)


@pytest.mark.parametrize(
    "note", ['"claustrophobic', 'said "no"', '""', "'", '5" coil', "a,b;c", "#1", "\\t", "\u2028", "ä"]
)
def test_quotation_marks_are_text(tmp_path: Path, note: str) -> None:
    """In a quoted table the first of these would swallow the following rows."""
    table = f"participant_id\tnotes\nsub-01\t{note}\nsub-02\tfine\n"
    assert read(tmp_path, table.encode()) == [
        {"participant_id": "sub-01", "notes": note},
        {"participant_id": "sub-02", "notes": "fine"},
    ]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("last", ["", "end", "ends"])
def test_line_ends_and_a_byte_order_mark(tmp_path: Path, end: str, start: str, last: str) -> None:
    table = start + end.join(["a\tb", "1\t2", "3\tn/a"]) + {"": "", "end": end, "ends": 2 * end}[last]
    assert read(tmp_path, table.encode()) == [{"a": "1", "b": "2"}, {"a": "3", "b": "n/a"}]


def test_an_empty_cell_is_kept_and_an_unnamed_column_left_out(tmp_path: Path) -> None:
    assert read(tmp_path, b"a\tb\t\n1\t\t\n") == [{"a": "1", "b": ""}]
    assert read(tmp_path, b"") == []


@pytest.mark.parametrize(
    ("content", "problems"),
    [
        (b"a\tb\n1\t2\n3\t4\t5\n", ["table.tsv: row 2: it has 3 cells, and the header has 2"]),
        (b"a\tb\n1\n3\t4\n5\n", ["row 1: it has 1 cells", "row 3: it has 1 cells"]),
        (b"a\tb\ta\n1\t2\t3\n", ["there are 2 columns 'a'"]),
        (b"a b\n1\t2\n", ["row 1: it has 2 cells, and the header has 1"]),
        (b"a\n\xff\xfe\n", ["no text in UTF-8"]),
        ("a\tb\n1\t2\n".encode("utf-16"), ["no text in UTF-8"]),
    ],
    ids=["too many", "too few", "a column twice", "blanks for tabs", "bytes", "UTF-16"],
)
def test_a_ragged_table_is_refused(tmp_path: Path, content: bytes, problems: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        read(tmp_path, content)
    assert len(caught.value.problems) == len(problems)
    for problem, expected in zip(caught.value.problems, problems, strict=True):
        assert expected in str(problem)


@pytest.mark.parametrize("name", ['left "hippocampus"', "'", '"'])
def test_what_is_written_is_read(tmp_path: Path, name: str) -> None:
    rows = [{"index": "1", "name": name}]
    write_tsv(tmp_path / "table.tsv", rows, ["index", "name"])
    assert read_tsv(tmp_path / "table.tsv") == rows
    assert (tmp_path / "table.tsv").read_text() == f"index\tname\n1\t{name}\n"


@pytest.mark.parametrize("value", ["a\tb", "a\nb", "a\rb"])
def test_a_tab_within_a_cell_is_never_written(tmp_path: Path, value: str) -> None:
    with pytest.raises(AtlasmithError, match="a tab or a line break"):
        write_tsv(tmp_path / "table.tsv", [{"name": value}], ["name"])
    assert not (tmp_path / "table.tsv").exists()
