"""Pictures of arrays: planes of volumes as PNG, charts as SVG.

matplotlib is used without pyplot, so that calls share no state.
"""

from __future__ import annotations

import base64
import colorsys
import io
import re
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imsave

from atlasmith.core.grid import Array, Grid

PLANES = ("sagittal", "coronal", "axial")  # across axis 0, 1, 2
LONGEST = 288  # pixels of a picture's longer side, at most, which bounds the size of the page
INK = "#012345"  # placeholder in charts, replaced by the page's own text color
ACCENT = "#2f7fd1"
GOLDEN = 0.618034
AGREE, MISSED, EXTRA, WRONG = (70, 140, 90), (60, 130, 255), (255, 150, 30), (230, 60, 200)


def plane_axes(grid: Grid) -> list[int]:
    """List the axes perpendicular to the shown planes: axial, coronal, sagittal; the thin one in 2-D."""
    thin = [axis for axis in range(3) if axis not in grid.axes]
    return thin or [2, 1, 0]


def plane(data: Array, grid: Grid, axis: int, index: int) -> Array:
    """Cut a plane, oriented as it is shown, with square pixels.

    Neurological convention: left is on the left, anterior or superior is up; in a sagittal plane, anterior
    is on the right. Voxels are repeated (not interpolated) to make pixels square, and sampled where the
    picture would be longer than `LONGEST`.

    Args:
        data: (X, Y, Z) in closest-RAS order.
        grid: Its grid.
        axis: Perpendicular to the plane.
        index: Position along `axis`, voxels.

    Returns:
        (rows, columns), first row on top.
    """
    across, up = (other for other in range(3) if other != axis)
    shown = np.take(data, index, axis=axis).T[::-1]
    spacing = np.array([grid.spacing[up], grid.spacing[across]])
    size_mm = np.array(shown.shape) * spacing
    pixel = max(spacing.min(), size_mm.max() / LONGEST)
    rows, columns = (
        ((np.arange(max(1, round(mm / pixel))) + 0.5) * pixel / step).astype(int).clip(0, n - 1)
        for mm, step, n in zip(size_mm, spacing, shown.shape, strict=True)
    )
    return shown[np.ix_(rows, columns)]


def largest_plane(labels: Array, grid: Grid) -> tuple[int, int]:
    """Find the plane with the largest labeled area in mm²; the middle one where nothing is labeled.

    Args:
        labels: (X, Y, Z), 0 is background.
        grid: Their grid.

    Returns:
        Axis and index, as of `plane`.
    """
    best, chosen = 0.0, (plane_axes(grid)[0], grid.shape[plane_axes(grid)[0]] // 2)
    for axis in plane_axes(grid):
        others = tuple(other for other in range(3) if other != axis)
        areas = (labels != 0).sum(axis=others) * grid.spacing[others[0]] * grid.spacing[others[1]]
        if areas.max() > best:
            best, chosen = float(areas.max()), (axis, int(areas.argmax()))
    return chosen


def window(*data: Array) -> tuple[float, float]:
    """Compute the range of intensities to show: the 0.5th and 99.5th percentile of all arrays together."""
    values = np.concatenate([d[np.isfinite(d)].ravel() for d in data])
    if not values.size:
        return 0.0, 1.0
    low, high = np.percentile(values, [0.5, 99.5])
    if high <= low:  # a small object in a large background
        low, high = values.min(), values.max()
    return float(low), float(high) if high > low else float(low) + 1


def gray(values: Array, limits: tuple[float, float]) -> Array:
    """Map intensities (rows, columns) to gray, black at the lower limit: RGB bytes (rows, columns, 3)."""
    low, high = limits
    level = np.clip((np.nan_to_num(values, nan=low) - low) / (high - low), 0, 1)
    return np.repeat((255 * level).astype(np.uint8)[..., None], 3, axis=-1)


def diverging(values: Array, limit: float) -> Array:
    """Map values to RGB bytes: white at 0, red at `limit`, blue at minus `limit`."""
    return mpl.colormaps["RdBu_r"](np.nan_to_num(values) / (2 * limit) + 0.5, bytes=True)[..., :3]


def sequential(values: Array) -> Array:
    """Map values from 0 to 1 to RGB bytes."""
    return mpl.colormaps["viridis"](np.nan_to_num(values).astype(float), bytes=True)[..., :3]


def palette(labels: Sequence[int]) -> dict[int, tuple[int, int, int]]:
    """Choose a color (RGB bytes) for each label, with hues in steps of the golden ratio.

    Labels next to each other in rank get clearly different colors.
    """
    colors = {}
    for rank, label in enumerate(sorted(labels)):
        saturation, value = ((0.9, 1.0), (0.55, 1.0), (0.8, 0.75))[rank // 12 % 3]
        red, green, blue = colorsys.hsv_to_rgb((0.02 + rank * GOLDEN) % 1, saturation, value)
        colors[label] = (round(255 * red), round(255 * green), round(255 * blue))
    return colors


def overlay(background: Array, labels: Array, colors: Mapping[int, tuple[int, int, int]]) -> Array:
    """Draw labels (rows, columns), half transparent, over RGB bytes; label 0 is left as it is."""
    shown = background.astype(np.float32)
    for label in np.unique(labels[labels != 0]):
        where = labels == label
        shown[where] = 0.45 * shown[where] + 0.55 * np.array(colors[int(label)])
    return shown.astype(np.uint8)


def disagreement(background: Array, truth: Array, predicted: Array) -> Array:
    """Show where two label maps (rows, columns) differ, over darkened RGB bytes.

    Colors: `AGREE`: same label; `MISSED`: only the truth has a label; `EXTRA`: only the other map has;
    `WRONG`: both have, but not the same.
    """
    shown = background // 2
    shown[(truth == predicted) & (truth != 0)] = AGREE
    shown[(truth != 0) & (predicted == 0)] = MISSED
    shown[(truth == 0) & (predicted != 0)] = EXTRA
    shown[(truth != predicted) & (truth != 0) & (predicted != 0)] = WRONG
    return shown


def png(pixels: Array) -> str:
    """Encode RGB bytes (rows, columns, 3) as a data URI, without date or name of a program."""
    file = io.BytesIO()
    imsave(
        file,
        np.ascontiguousarray(pixels),
        format="png",
        pil_kwargs={"optimize": True, "pnginfo": None},
    )
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def curve(steps: Array, values: Array, name: str) -> str:
    """Plot a column of a training table, faint as it is and bold smoothed.

    Args:
        steps: (n,).
        values: (n,).
        name: The title.

    Returns:
        Inline SVG.
    """
    blocks = np.array_split(np.arange(len(steps)), min(len(steps), 300))  # more points would not be visible
    steps = np.array([steps[block].mean() for block in blocks])
    values = np.array([values[block].mean() for block in blocks])
    box = np.ones(max(1, len(values) // 20))
    smooth = np.convolve(values, box, "same") / np.convolve(np.ones(len(values)), box, "same")
    figure, axes = _axes(3.4, 2.1)
    axes.plot(steps, values, color=INK, alpha=0.25, linewidth=0.7)
    axes.plot(steps, smooth, color=ACCENT, linewidth=1.6)
    axes.set_title(name, loc="left", parse_math=False)
    axes.set_xlabel("step")
    return _svg(figure)


def strips(groups: Mapping[str, Array], title: str) -> str:
    """Plot a row of dots for each group, over a box of the interquartile range with the median.

    Args:
        groups: Values (n,) by name.
        title: Of the chart.

    Returns:
        Inline SVG.
    """
    figure, axes = _axes(4.2, 0.8 + 0.34 * len(groups))
    for row, values in enumerate(groups.values()):
        low, middle, high = np.percentile(values, [25, 50, 75])
        axes.barh(row, high - low, left=low, height=0.62, color=ACCENT, alpha=0.25)
        axes.plot([middle, middle], [row - 0.31, row + 0.31], color=ACCENT, linewidth=2)
        jitter = (np.arange(len(values)) * GOLDEN) % 1 - 0.5  # evenly spread, and the same in each run
        many = len(values) > 300  # a bitmap is then smaller than as many marks
        axes.plot(values, row + 0.45 * jitter, ".", color=INK, alpha=0.55, markersize=3, rasterized=many)
    axes.set_yticks(range(len(groups)), list(groups), parse_math=False)
    axes.set_ylim(len(groups) - 0.4, -0.6)
    axes.set_title(title, loc="left", parse_math=False)
    axes.grid(axis="x", color=INK, alpha=0.12)
    return _svg(figure)


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of this size, inches, and its axes, in the style of the page."""
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="none")
    axes = figure.add_subplot(facecolor="none")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.tick_params(colors=INK, labelsize=8)
    axes.title.set(color=INK, fontsize=9)
    axes.xaxis.label.set(color=INK, fontsize=8)
    return figure, axes


def _svg(figure: Figure) -> str:
    """Inline SVG in the page's text color; its text stays text, and the same figure gives the same bytes."""
    file = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "atlasmith"}):
        figure.savefig(
            file,
            format="svg",
            transparent=True,
            metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")),
        )
    text = file.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    return re.sub(r' id="[\w.]+_\d+"', "", text)  # ids of groups, which would not be unique in a page
