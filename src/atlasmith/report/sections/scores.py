"""Sections `Distributions` and `Scores`: the scores over subjects, and Dice of each label."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from atlasmith.io.tables import MEAN, MISSING
from atlasmith.report import pictures
from atlasmith.report.markup import details, interval_text, note, number_text, table, words
from atlasmith.report.results import Results, is_overall

ENDS = 15  # labels shown at either end of a long table


def distributions(results: Results) -> str:
    """Show a chart for each metric, with a row of dots for each method."""
    groups: dict[str, dict[str, list[float]]] = {}
    for row in results.scores:
        if row["subject"] in results.by_id and is_overall(row):
            by_method = groups.setdefault(words(row["metric"]), {})  # which ends in its unit
            by_method.setdefault(words(row["method"]), []).append(float(row["value"]))
    charts = "".join(
        pictures.strips({name: np.array(values) for name, values in by_method.items()}, metric)
        for metric, by_method in groups.items()
    )
    if not charts:
        return ""
    text = (
        "A dot is a subject (the mean over labels, where there are labels); the box is the interquartile "
        "range, the line the median."
    )
    return f'{note(text)}<div class="charts">{charts}</div>'


def scores(results: Results) -> str:
    """Show the summary of scores, and Dice of each label."""
    if not results.summary:
        return ""
    head = ["stage", "method", "metric", "mean", "95 % interval", "SD", "median", "n", "unit"]
    rows = [
        [
            *(words(row[key]) for key in ("stage", "method", "metric")),
            number_text(row["mean"]),
            interval_text(row),
            *(number_text(row[key]) for key in ("sd", "median", "n")),
            "" if row["unit"] == "1" else row["unit"],
        ]
        for row in results.summary
        if is_overall(row)
    ]
    return table(head, rows, text_columns=3) + _label_table(results)


def _label_table(results: Results) -> str:
    """Mean Dice of each label by method; of many labels, the highest and the lowest come first."""
    by_label: dict[str, dict[str, str]] = {}
    methods: dict[str, None] = {}
    for row in results.summary:
        if row["metric"] == "dice" and row["label"] not in (MISSING, MEAN):
            by_label.setdefault(row["label"], {})[row["method"]] = row["mean"]
            methods[row["method"]] = None
    if not by_label:
        return ""
    last = list(methods)[-1]
    ranked = sorted(by_label, key=lambda label: (-_sortable(by_label[label].get(last, MISSING)), int(label)))

    def table_of(labels: Sequence[str]) -> str:
        rows = (
            [
                f"{label} {results.label_names.get(int(label), '')}",
                *(number_text(by_label[label].get(method, MISSING)) for method in methods),
            ]
            for label in labels
        )
        return table(["label", *map(words, methods)], rows)

    title = f"<h3>Dice by label, sorted by {escape(words(last))}</h3>"
    if len(ranked) <= 2 * ENDS:
        return title + table_of(ranked)
    return (
        f"{title}{note(f'The highest {ENDS}')}{table_of(ranked[:ENDS])}"
        f"{note(f'The lowest {ENDS}')}{table_of(ranked[-ENDS:])}"
        f"{details(f'All {len(ranked)} labels', table_of(ranked))}"
    )


def _sortable(text: str) -> float:
    """A missing value is below all others."""
    return -np.inf if text == MISSING else float(text)
