"""The record of figures in benchmarks/results/, and the page that is made from it."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import atlasmith

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import results  # noqa: E402
import results_page  # noqa: E402

FILES = sorted(results.FOLDER.glob("*.csv"))
FIGURE = {"dataset": "demo", "method": "majority", "metric": "dice", "value": 0.9, "note": "6 targets"}


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder to which the page is written anew."""
    folder = tmp_path_factory.mktemp("docs")
    results_page.main(["--docs", str(folder)])
    return folder


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_file_follows_the_schema(path: Path) -> None:
    rows = results.read_rows(path)  # columns, numbers, intervals, dates and keys
    assert rows
    for row in rows:
        assert re.fullmatch(r"\d+\.\d+\.\d+", row["version"]) and re.fullmatch(r"[0-9a-f]{7,}", row["commit"])
        assert row["unit"] in {"1", "mm", "%", "s", "min", "GiB", "MB", "1/year"}
        assert not any(word.startswith("/") for cell in row.values() for word in cell.split(" "))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_commands_name_scripts_and_configs_that_exist(path: Path) -> None:
    for command in {row["command"] for row in results.read_rows(path)}:
        words = shlex.split(command)
        if command.startswith("python benchmarks/"):
            assert (ROOT / words[1]).is_file(), command
        for word in words:
            if word.startswith(("examples/", "tests/")):
                assert (ROOT / word).is_file(), command


def test_there_are_figures_of_every_topic() -> None:
    assert {path.stem for path in FILES} == {topic.name for topic in results_page.TOPICS}


def test_the_page_is_what_the_figures_give_now(pages: Path) -> None:
    written = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert (pages / "results.md").read_text(encoding="utf-8") == written, (
        "docs/results.md is not what the figures give: python benchmarks/results_page.py"
    )


def test_the_page_names_images_and_sections_that_exist(pages: Path) -> None:
    text = (pages / "results.md").read_text(encoding="utf-8")
    images = re.findall(r"\]\((images/[^)]+)\)", text)
    assert images and len(set(images)) == len(images)
    for image in images:
        assert (pages / image).stat().st_size > 1000 and (ROOT / "docs" / image).is_file()
    sections = [line.lower().removeprefix("## ").replace(" ", "-") for line in text.splitlines()]
    assert all(anchor in sections for anchor in re.findall(r"\]\(#([^)]+)\)", text))


def test_the_page_shows_every_figure() -> None:
    figures = results_page.read_figures()
    text = results_page.page(figures)
    rows = [row for topic in figures.values() for row in topic]
    assert all(results_page.value_of(row) in text for row in rows)
    shown = text.split("## Multi-atlas segmentation", 1)[1]
    cells = [cell for line in shown.splitlines() if line.startswith("| ") for cell in line.split(" | ")[1:]]
    assert sum(bool(re.match(r"-?[\d.]+", cell)) for cell in cells) >= len(rows)


def test_commands_that_differ_in_one_word_are_merged() -> None:
    commands = ["python a.py --count 3", "python a.py --count 5", "make demo", "python b.py --count 3"]
    merged = ["python a.py --count {3,5}", "make demo", "python b.py --count 3"]
    assert results_page.merge(commands) == merged


def test_append_rows_fills_what_a_process_knows(tmp_path: Path) -> None:
    path = tmp_path / "new" / "demo.csv"
    results.append_rows(path, [FIGURE | {"ci_low": 0.85, "ci_high": 0.95, "n": 6}])
    (row,) = results.read_rows(path)
    head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    assert row["commit"] == (head.stdout.strip() or "unknown")
    assert row["version"] == atlasmith.__version__ and "CPU core" in row["hardware"]
    assert (row["value"], row["ci_low"], row["unit"], row["n"]) == ("0.9", "0.85", "1", "6")
    assert row["seconds"] == row["command"] == ""


def test_append_rows_replaces_the_figure_of_the_same_key(tmp_path: Path) -> None:
    path = tmp_path / "demo.csv"
    results.append_rows(path, [FIGURE, FIGURE | {"method": "jlf"}])
    results.append_rows(path, [FIGURE | {"value": 0.91}, FIGURE | {"note": "5 targets", "value": 1 / 3}])
    found = [(row["method"], row["note"], row["value"]) for row in results.read_rows(path)]
    assert found == [
        ("majority", "6 targets", "0.91"),
        ("jlf", "6 targets", "0.9"),
        ("majority", "5 targets", "0.333333"),
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score": 1}, "unknown: .*score"),
        ({"method": ""}, "no method"),
        ({"value": None}, "no value"),
        ({"value": "good"}, "good"),
        ({"value": float("nan")}, "not finite"),
        ({"ci_low": 0.8}, "two ends"),
        ({"ci_low": 0.91, "ci_high": 0.95}, "outside its interval"),
        ({"date": "yesterday"}, "yesterday"),
    ],
)
def test_append_rows_refuses_what_breaks_the_schema(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    path = tmp_path / "demo.csv"
    results.append_rows(path, [FIGURE])
    before = path.read_bytes()
    with pytest.raises(ValueError, match=message):
        results.append_rows(path, [FIGURE | {"method": "jlf"}, FIGURE | change])
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_read_rows_refuses_other_columns_and_double_keys(tmp_path: Path) -> None:
    path = tmp_path / "demo.csv"
    results.append_rows(path, [FIGURE])
    header, line = path.read_text().splitlines()
    path.write_text(f"{header}\n{line}\n{line}\n")
    with pytest.raises(ValueError, match="two rows"):
        results.read_rows(path)
    path.write_text(f"{header},extra\n{line},1\n")
    with pytest.raises(ValueError, match="columns"):
        results.read_rows(path)
