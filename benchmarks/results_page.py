"""Write docs/results.md and its plots from the record of figures in benchmarks/results/.

    python benchmarks/results_page.py

The figures are not typed into the page: a benchmark writes them with `results.append_rows`, and this script
arranges them. A table shows one protocol of one dataset. Within a topic and dataset the newest come first;
superseded figures stand at the end of the page. A new file of figures needs a topic in `results_text.py`.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from results import FOLDER, ROOT, Row, key_of, read_rows
from results_plots import PLOTS, draw
from results_text import HEADLINES, INTRODUCTION, NAMES, SUPERSEDED_TEXT, TOPICS

SUPERSEDED = "superseded: "
ENDINGS = {
    "mm": "_mm",
    "%": "_percent",
    "GiB": "_gib",
    "MB": "_mb",
    "min": "_min",
    "s": "_s",
    "1/year": "_per_year",
}


class Figure(NamedTuple):
    """A cell of a table before it is formatted."""

    text: str
    source: str
    command: str
    n: str
    newness: tuple[list[int], str]


def metric_name(row: Row) -> str:
    """Return a metric's heading, its unit in parentheses."""
    metric, unit = row["metric"], row["unit"]
    if metric in NAMES:
        return NAMES[metric]
    name = metric.removesuffix(ENDINGS.get(unit, "")).replace("_", " ")
    return name if unit == "1" else f"{name} ({unit})"


def value_of(row: Row) -> str:
    """Return a value with its interval."""
    interval = f" ({row['ci_low']} to {row['ci_high']})" if row["ci_low"] else ""
    return row["value"] + interval


def figure_of(row: Row) -> Figure:
    """Return the cell that shows a row."""
    source = f"{row['version']} (`{row['commit']}`, {row['date']})"
    source += f"; {row['hardware']}" if row["hardware"] else ""
    return Figure(value_of(row), source, row["command"], row["n"], newness([row]))


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table, its header the first row."""
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]) + "\n"


def merge(commands: Iterable[str]) -> list[str]:
    """Join commands that differ in one word, `--atlases {3,5}`.

    Args:
        commands: Command lines.

    Returns:
        Command lines, fewer or as many, in order of appearance.
    """
    merged: list[list[list[str]]] = []  # of each line, of each word, its alternatives
    for command in dict.fromkeys(commands):
        words = command.split(" ")
        for line in merged:
            if len(line) != len(words):
                continue
            differing = [place for place, word in enumerate(words) if word not in line[place]]
            varying = [place for place, options in enumerate(line) if len(options) > 1]
            if len(differing) == 1 and varying in ([], differing):
                line[differing[0]].append(words[differing[0]])
                break
        else:
            merged.append([[word] for word in words])
    return [" ".join(w[0] if len(w) == 1 else "{" + ",".join(w) + "}" for w in line) for line in merged]


def with_seconds(rows: Sequence[Row]) -> list[Row]:
    """Return the figures and, at the end, the computing time of each method that has one."""
    if any(row["metric"] == "time_s" for row in rows):
        return list(rows)
    timed: dict[tuple[str, str], Row] = {}
    for row in rows:
        if row["seconds"]:
            timed.setdefault((row["method"], row["note"]), row)
    changes = {"metric": "seconds", "ci_low": "", "ci_high": "", "unit": "s"}
    return [*rows, *(row | changes | {"value": row["seconds"]} for row in timed.values())]


def pivot(
    rows: Sequence[Row], down: Callable[[Row], str], across: Callable[[Row], str]
) -> tuple[list[str], list[str], dict[tuple[str, str], Figure]]:
    """Arrange figures by two of their properties.

    Args:
        rows: Figures of one protocol.
        down: Heading of a figure's line.
        across: Heading of a figure's column.

    Returns:
        Headings of the lines and of the columns, in order of appearance, and the figures by both.
    """
    cells = {(down(row), across(row)): figure_of(row) for row in rows}
    return list(dict.fromkeys(d for d, _ in cells)), list(dict.fromkeys(a for _, a in cells)), cells


def table_of(rows: Sequence[Row]) -> str:
    """Return the table of one protocol and dataset, with its sources.

    Variants of the protocol are columns if there are any; else the lines are methods and the columns metrics,
    or the other way round where that is narrower.
    """
    rows = with_seconds(rows)
    if any(" | " in row["note"] for row in rows):
        one_metric = len({row["metric"] for row in rows}) == 1
        lines, columns, cells = pivot(
            rows,
            lambda r: r["method"] if one_metric else f"{r['method']}: {metric_name(r)}",
            lambda r: r["note"].split(" | ")[-1],
        )
        corner = metric_name(rows[0]) if one_metric else "method: metric"
    else:
        lines, columns, cells = pivot(rows, lambda r: r["method"], metric_name)
        corner = "method"
        if len(columns) > max(5, len(lines)) or (len(lines) == 1 and len(columns) > 2):
            lines, columns = columns, lines
            cells = {(metric, method): figure for (method, metric), figure in cells.items()}
            corner = "metric"
    counts = Counter(figure.source for figure in cells.values())
    ages = {figure.source: figure.newness for figure in cells.values()}
    sources = sorted(counts, key=lambda source: (ages[source], counts[source]), reverse=True)

    def shown(figure: Figure | None) -> str:
        if figure is None:
            return ""
        index = sources.index(figure.source)
        return figure.text + (f" [{index + 1}]" if index else "")

    body = [[line, *(shown(cells.get((line, column))) for column in columns)] for line in lines]
    return markdown([[corner, *columns], *body]) + "\n" + sources_of(sources, list(cells.values()))


def sources_of(sources: Sequence[str], figures: Sequence[Figure]) -> str:
    """Return the lines below a table: n, and version, hardware and commands of each source."""
    numbers = sorted({figure.n for figure in figures if figure.n}, key=float)
    notes = []
    for index, source in enumerate(sources):
        commands = merge(f.command for f in figures if f.source == source and f.command)
        mark = f"[{index + 1}] " if index else (f"*n* = {' or '.join(numbers)}; " if numbers else "")
        notes.append(mark + source + (": " + ", ".join(f"`{c}`" for c in commands) if commands else ""))
    return "  \n".join(notes) + "\n"


def newness(rows: Sequence[Row]) -> tuple[list[int], str]:
    """Return a key that sorts groups of figures by their newest version and date, the oldest first."""
    return max(([int(part) for part in re.findall(r"\d+", row["version"])], row["date"]) for row in rows)


def tables_of(rows: Sequence[Row]) -> str:
    """Return the tables of a topic: by dataset, and of each the newest protocol first."""
    groups: dict[str, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        groups[row["dataset"]][row["note"].removeprefix(SUPERSEDED).split(" | ")[0]].append(row)
    parts = []
    for dataset, protocols in groups.items():
        for protocol, figures in sorted(protocols.items(), key=lambda item: newness(item[1]), reverse=True):
            parts.append(f"**{dataset}**: {protocol}\n\n{table_of(figures)}")
    return "\n".join(parts)


def headlines(figures: dict[str, list[Row]]) -> str:
    """Return the table of the main figures.

    Raises:
        ValueError: If one of them is not recorded.
    """
    lines = [("what", "figure", "version")]
    for text, topic, *key in HEADLINES:
        found = [row for row in figures.get(topic, []) if list(key_of(row)) == key]
        if not found:
            raise ValueError(f"{topic}.csv: no figure of {', '.join(key)}, which the page names")
        unit = "" if found[0]["unit"] == "1" else f" {found[0]['unit']}"
        lines.append((text, value_of(found[0]) + unit, found[0]["version"]))
    return markdown(lines)


def page(figures: dict[str, list[Row]]) -> str:
    """Return the text of docs/results.md.

    Args:
        figures: Rows by topic, the name of their file.

    Returns:
        Markdown.

    Raises:
        ValueError: If a main figure is not recorded.
    """
    topics = [topic for topic in TOPICS if figures.get(topic.name)]
    anchors = {topic: topic.title.lower().replace(" ", "-") for topic in topics}
    parts = [INTRODUCTION, "## Main figures\n" + headlines(figures)]
    parts += [
        "Details: " + ", ".join(f"[{topic.title}](#{anchor})" for topic, anchor in anchors.items()) + "\n"
    ]
    older = []
    for topic in topics:
        images = [f"![{plot.title}](images/{plot.name}.svg)\n" for plot in PLOTS if plot.topic == topic.name]
        parts += [f"## {topic.title}\n{topic.text}\n", *images]
        rows = figures[topic.name]
        parts.append(tables_of([row for row in rows if not row["note"].startswith(SUPERSEDED)]))
        if superseded := [row for row in rows if row["note"].startswith(SUPERSEDED)]:
            older += [f"### Superseded: {topic.title}\n", tables_of(superseded)]
    return "\n".join([*parts, f"## Superseded figures\n{SUPERSEDED_TEXT}\n", *older])


def read_figures(folder: Path = FOLDER) -> dict[str, list[Row]]:
    """Return the figures of every topic.

    Args:
        folder: Where the CSV files lie.

    Returns:
        Rows by the name of their file.

    Raises:
        ValueError: If a file is not a topic of the page, or breaks the schema.
    """
    figures = {path.stem: read_rows(path) for path in sorted(folder.glob("*.csv"))}
    if unknown := figures.keys() - {topic.name for topic in TOPICS}:
        raise ValueError(f"{folder}: no topic of the page: {', '.join(sorted(unknown))}")
    return figures


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page and its plots.

    Args:
        arguments: Command line without the program's name; that of the process if None.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="folder to write to")
    options = parser.parse_args(arguments)
    figures = read_figures()
    text = page(figures)
    images = options.docs / "images"
    images.mkdir(parents=True, exist_ok=True)
    for plot in PLOTS:
        draw(plot, figures, images / f"{plot.name}.svg")
    (options.docs / "results.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
