"""The plots of docs/results.md, drawn from the record of figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter
from results import Row

Panel = Callable[[Axes, list[Row]], None]
COLORS = {
    "autocontext": "#0072B2",
    "jlf": "#D55E00",
    "local_weighted": "#009E73",
    "staple": "#CC79A7",
    "majority": "#555555",
    "single_atlas": "#AAAAAA",
}
STYLE = {
    "svg.hashsalt": "atlasmith",
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
STAGES = ("template", "register", "affine", "score", "propagate", "fuse")


class Plot(NamedTuple):
    """A figure of the page: panels side by side, each from the rows that a function selects."""

    name: str
    topic: str
    title: str
    panels: Sequence[tuple[Panel, str]]
    size: tuple[float, float]


def select(rows: Sequence[Row], dataset: str, protocol: str, metric: str) -> list[Row]:
    """Return the figures of one metric and protocol, all its variants included."""
    return [
        row
        for row in rows
        if (row["dataset"], row["note"].split(" | ")[0], row["metric"]) == (dataset, protocol, metric)
    ]


def variant(row: Row) -> str:
    """Return the variant of the protocol that a note ends in."""
    return row["note"].split(" | ")[-1]


def bars(dataset: str, protocol: str, metric: str, label: str) -> Panel:
    """Return a panel with a point and interval for each method, the best on top; open without an interval."""

    def panel(axes: Axes, rows: list[Row]) -> None:
        found = sorted(select(rows, dataset, protocol, metric), key=lambda row: float(row["value"]))
        for place, row in enumerate(found):
            value = float(row["value"])
            color = COLORS.get(row["method"], "#0072B2" if "atlasmith" in row["method"] else "#555555")
            if row["ci_low"]:
                axes.plot([float(row["ci_low"]), float(row["ci_high"])], [place, place], color=color, lw=2)
            axes.plot(value, place, "o", color=color, mfc=color if row["ci_low"] else "white")
            axes.annotate(f"{value:.3f}", (value, place), (0, 6), textcoords="offset points", ha="center")
        axes.set_yticks(range(len(found)), [row["method"] for row in found])
        axes.set_ylim(-0.5, len(found) - 0.2)
        axes.margins(x=0.12)
        axes.set_xlabel(label)
        axes.grid(axis="x", alpha=0.3)

    return panel


def atlases(protocol: str, label: str) -> Panel:
    """Return a panel of Dice against the number of atlases, a line a method."""

    def panel(axes: Axes, rows: list[Row]) -> None:
        points: dict[str, list[tuple[int, float]]] = {}
        for row in select(rows, "hippocampus", protocol, "dice"):
            count = variant(row).removesuffix(" atlases")
            if count.isdigit():
                points.setdefault(row["method"], []).append((int(count), float(row["value"])))
        for method, line in points.items():
            axes.plot(*zip(*sorted(line), strict=True), "o-", color=COLORS.get(method), label=method)
        axes.set_xlabel(label)
        axes.set_ylabel("Dice")
        axes.set_ylim(0.825, 0.89)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, loc="lower right")

    return panel


def growth(metric: str, voxels: Sequence[str], label: str) -> Panel:
    """Return a panel of time or memory against the number of subjects, a line a stage.

    Args:
        metric: `time_s` or `peak_memory_gib`.
        voxels: Grid sizes that the variants of one spacing name.
        label: Of the vertical axis.

    Returns:
        The panel, on logarithmic axes for time.
    """

    def panel(axes: Axes, rows: list[Row]) -> None:
        found = select(rows, "hippocampus", "growth with subjects and voxels, trainings of 40 steps", metric)
        for number, stage in enumerate(STAGES):
            line = [
                (int(variant(row).split()[0]), float(row["value"]))
                for row in found
                if row["method"] == stage and variant(row).split()[2] in voxels
            ]
            if line:
                axes.plot(*zip(*sorted(line), strict=True), "o-", color=f"C{number}", label=stage)
        axes.set_xscale("log")
        if metric == "time_s":
            axes.set_yscale("log")
            axes.set_ylim(2, 600)
            axes.yaxis.set_major_formatter(ScalarFormatter())
        else:
            axes.set_ylim(0, 1)
        axes.xaxis.set_major_locator(FixedLocator([10, 50, 175]))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.set_xlabel("subjects")
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)

    return panel


FINE = ("107520", "129024", "147456")
PLOTS = (
    Plot(
        "results-segmentation",
        "segmentation",
        "Dice by method with 95 % intervals, hippocampus and brain; open circles: none is recorded",
        (
            (
                bars("hippocampus", "50 targets, 30 atlases, native grid", "dice", "Dice"),
                "Hippocampus, 50 targets",
            ),
            (
                bars("brain", "15 atlases left out in turn, native 1 mm grid", "dice", "Dice"),
                "15 brains left out in turn, 1 mm",
            ),
        ),
        (8.5, 2.8),
    ),
    Plot(
        "results-atlases",
        "segmentation",
        "Dice against the number of atlases, hippocampus, first 12 targets",
        (
            (atlases("first 12 targets, library size", "atlases in the library"), "The first atlases"),
            (
                atlases("first 12 targets, most similar of 30 atlases", "atlases selected for each target"),
                "The most similar of 30 atlases",
            ),
        ),
        (8.5, 3.2),
    ),
    Plot(
        "results-peers",
        "peers",
        "Dice of single atlases by registration tool, with 95 % intervals; open circles: none is recorded",
        (
            (
                bars("hippocampus", "60 pairs of an atlas and a target", "dice", "Dice"),
                "Hippocampus, 60 pairs",
            ),
            (
                bars("brain", "12 pairs of an atlas and a held-out brain, evaluated at 2 mm", "dice", "Dice"),
                "Brain, 12 pairs, 2 mm",
            ),
        ),
        (8.5, 2.6),
    ),
    Plot(
        "results-growth",
        "scaling",
        "Time and memory of the stages against the number of subjects, hippocampus at 1 and 2 mm",
        (
            (growth("time_s", ("18432",), "time (s)"), "2 mm, 18432 voxels"),
            (growth("time_s", FINE, "time (s)"), "1 mm, some 130000 voxels"),
            (growth("peak_memory_gib", FINE, "memory of the largest job (GiB)"), "1 mm, memory"),
        ),
        (10, 3.4),
    ),
)


def draw(plot: Plot, figures: dict[str, list[Row]], path: Path) -> None:
    """Draw one plot to a file.

    Args:
        plot: What to draw.
        figures: Rows by topic.
        path: SVG or PNG file to write; an SVG is the same text whenever it is drawn.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=plot.size, layout="constrained")
        all_axes = figure.subplots(1, len(plot.panels), squeeze=False)[0]
        for axes, (panel, title) in zip(all_axes, plot.panels, strict=True):
            panel(axes, figures.get(plot.topic, []))
            axes.set_title(title, fontsize=9, loc="left")
        if plot.topic == "scaling":
            handles, labels = all_axes[0].get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside right center", frameon=False)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=120)
