"""Charts as inline SVG, in the page's own text color, with a text for those who can't see them.

matplotlib is used without pyplot, so that calls share no state.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from html import escape

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from atlasmith.core.grid import Array
from atlasmith.report.pictures import GOLDEN
from atlasmith.report.text import number_text

INK = "#012345"  # placeholder, replaced by the page's own text color
ACCENT = "#fedcba"  # placeholder, replaced by the page's own accent
MAX_POINTS = 300  # of a curve; more would not be visible


def curve(steps: Array, values: Array, name: str) -> Markup:
    """Plot a column of a training table, faint as it is and bold smoothed.

    Args:
        steps: (n,).
        values: (n,).
        name: The title.

    Returns:
        Inline SVG.
    """
    alt = (
        f"{name} over {len(steps)} steps, from {number_text(float(values[0]))} "
        f"to {number_text(float(values[-1]))}"
    )
    blocks = np.array_split(np.arange(len(steps)), min(len(steps), MAX_POINTS))
    steps = np.array([steps[block].mean() for block in blocks])
    values = np.array([values[block].mean() for block in blocks])
    box = np.ones(max(1, len(values) // 20))
    smooth = np.convolve(values, box, "same") / np.convolve(np.ones(len(values)), box, "same")
    figure, axes = _axes(3.4, 2.1, name)
    axes.plot(steps, values, color=INK, alpha=0.25, linewidth=0.7)
    axes.plot(steps, smooth, color=ACCENT, linewidth=1.6)
    axes.set_xlabel("step")
    return _svg(figure, alt)


def strips(groups: Mapping[str, Array], title: str) -> Markup:
    """Plot a row of dots for each group, over a box of the interquartile range with the median.

    Args:
        groups: Values (n,) by name.
        title: Of the chart.

    Returns:
        Inline SVG.
    """
    figure, axes = _axes(4.2, 0.8 + 0.34 * len(groups), title)
    texts = []
    for row, (name, values) in enumerate(groups.items()):
        low, middle, high = np.percentile(values, [25, 50, 75])
        axes.barh(row, high - low, left=low, height=0.62, color=ACCENT, alpha=0.3)
        axes.plot([middle, middle], [row - 0.31, row + 0.31], color=ACCENT, linewidth=2)
        jitter = (np.arange(len(values)) * GOLDEN) % 1 - 0.5  # evenly spread, and the same in each run
        many = len(values) > 300  # a bitmap is then smaller than as many marks
        axes.plot(values, row + 0.45 * jitter, ".", color=INK, alpha=0.6, markersize=3, rasterized=many)
        texts.append(
            f"{name}: median {number_text(middle)}, quartiles {number_text(low)} and {number_text(high)}, "
            f"{len(values)} values"
        )
    axes.set_yticks(range(len(groups)), list(groups), parse_math=False)
    axes.set_ylim(len(groups) - 0.4, -0.6)
    axes.grid(axis="x", color=INK, alpha=0.12)
    return _svg(figure, f"{title}. {'; '.join(texts)}")


def growth(
    points: Sequence[tuple[Array, Array]], fit: tuple[Array, Array, Array, Array], names: tuple[str, str]
) -> Markup:
    """Plot volumes over a covariate: a dot for each scan, joined within participants, and a fitted curve.

    Args:
        points: Of each participant, the covariate (n,) and the volumes (n,).
        fit: The covariate (m,), the fitted volumes (m,), and the ends of their intervals (m,).
        names: Of the structure and the covariate.

    Returns:
        Inline SVG.
    """
    structure, covariate = names
    figure, axes = _axes(3.4, 2.4, structure)
    at, expected, low, high = fit
    axes.fill_between(at, low, high, color=ACCENT, alpha=0.22, linewidth=0)
    axes.plot(at, expected, color=ACCENT, linewidth=1.8)
    for x, y in points:
        if len(x) > 1:
            axes.plot(x, y, color=INK, alpha=0.3, linewidth=0.7)
    x, y = (np.concatenate([pair[k] for pair in points]) for k in (0, 1))
    axes.plot(x, y, ".", color=INK, alpha=0.65, markersize=4, rasterized=len(x) > 300)
    axes.set_xlabel(covariate, parse_math=False)
    axes.set_ylabel("ml")
    ends = [f"{number_text(float(expected[k]))} ml expected at {number_text(float(at[k]))}" for k in (0, -1)]
    return _svg(figure, f"Volume of {structure} over {covariate}, {len(x)} scans: {', '.join(ends)}")


def _axes(width: float, height: float, title: str) -> tuple[Figure, Axes]:
    """A figure of this size, inches, and its axes, in the style of the page."""
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="none")
    axes = figure.add_subplot(facecolor="none")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.tick_params(colors=INK, labelsize=8)
    axes.set_title(title, loc="left", color=INK, fontsize=9, parse_math=False)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(color=INK, fontsize=8)
    axes.margins(x=0.04)
    return figure, axes


def _svg(figure: Figure, alt: str) -> Markup:
    """Inline SVG whose text stays text; the same figure gives the same bytes."""
    file = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "atlasmith"}):
        figure.savefig(
            file,
            format="svg",
            transparent=True,
            metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")),
        )
    text = file.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor").replace(ACCENT, "var(--accent)")
    text = re.sub(r' id="[\w.]+_\d+"', "", text)  # ids of groups, which would not be unique in a page
    return Markup(text.replace("<svg", f'<svg role="img" aria-label="{escape(alt)}"', 1))
