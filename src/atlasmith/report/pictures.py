"""Arrays to pictures: planes of volumes as PNG, charts as SVG.

matplotlib is used without pyplot, so that no state outlives a call.
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
LONGEST = 288  # pixels of a picture's longer side, at most: it keeps the page's size bounded
INK = "#012345"  # stands for the page's own text color in charts
ACCENT = "#2f7fd1"
GOLDEN = 0.618034
AGREE, MISSED, EXTRA, WRONG = (70, 140, 90), (60, 130, 255), (255, 150, 30), (230, 60, 200)


def plane_axes(grid: Grid) -> list[int]:
    """The axes to look along: axial, coronal and sagittal in 3-D, the thin one in 2-D."""
    thin = [axis for axis in range(3) if axis not in grid.axes]
    return thin or [2, 1, 0]


def plane(data: Array, grid: Grid, axis: int, index: int) -> Array:
    """The plane at `index` of `axis` as it is to be shown: (rows, columns), first row on top, square pixels.

    data: (X, Y, Z) on `grid`, in closest-RAS order. Neurological convention: left is on the left, anterior or
    superior on top; a sagittal plane looks to the right. Voxels are repeated (never mixed) to make pixels
    square, and sampled where the picture would be longer than `LONGEST`.
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
    """(axis, index) of the plane with the largest labelled area, mm²; the middle one where there is none."""
    best, chosen = 0.0, (plane_axes(grid)[0], grid.shape[plane_axes(grid)[0]] // 2)
    for axis in plane_axes(grid):
        others = tuple(other for other in range(3) if other != axis)
        areas = (labels != 0).sum(axis=others) * grid.spacing[others[0]] * grid.spacing[others[1]]
        if areas.max() > best:
            best, chosen = float(areas.max()), (axis, int(areas.argmax()))
    return chosen


def window(*data: Array) -> tuple[float, float]:
    """Brightness range (low, high) of all `data` together: the 0.5th and the 99.5th percentile."""
    values = np.concatenate([d[np.isfinite(d)].ravel() for d in data])
    if not values.size:
        return 0.0, 1.0
    low, high = np.percentile(values, [0.5, 99.5])
    if high <= low:  # a small object in a wide background
        low, high = values.min(), values.max()
    return float(low), float(high) if high > low else float(low) + 1


def gray(values: Array, limits: tuple[float, float]) -> Array:
    """(rows, columns) to RGB bytes (rows, columns, 3), black at the lower limit."""
    low, high = limits
    level = np.clip((np.nan_to_num(values, nan=low) - low) / (high - low), 0, 1)
    return np.repeat((255 * level).astype(np.uint8)[..., None], 3, axis=-1)


def diverging(values: Array, limit: float) -> Array:
    """RGB bytes: white at 0, red at `limit`, blue at minus `limit`."""
    return mpl.colormaps["RdBu_r"](np.nan_to_num(values) / (2 * limit) + 0.5, bytes=True)[..., :3]


def sequential(values: Array) -> Array:
    """RGB bytes of values from 0 to 1."""
    return mpl.colormaps["viridis"](np.nan_to_num(values).astype(float), bytes=True)[..., :3]


def palette(labels: Sequence[int]) -> dict[int, tuple[int, int, int]]:
    """A color (RGB bytes) for each label: hues a golden section apart, so that neighbors differ."""
    colors = {}
    for rank, label in enumerate(sorted(labels)):
        saturation, value = ((0.9, 1.0), (0.55, 1.0), (0.8, 0.75))[rank // 12 % 3]
        red, green, blue = colorsys.hsv_to_rgb((0.02 + rank * GOLDEN) % 1, saturation, value)
        colors[label] = (round(255 * red), round(255 * green), round(255 * blue))
    return colors


def overlay(background: Array, labels: Array, colors: Mapping[int, tuple[int, int, int]]) -> Array:
    """Labels (rows, columns), half transparent, over RGB bytes. Label 0 shows the background."""
    shown = background.astype(np.float32)
    for label in np.unique(labels[labels != 0]):
        where = labels == label
        shown[where] = 0.45 * shown[where] + 0.55 * np.array(colors[int(label)])
    return shown.astype(np.uint8)


def disagreement(background: Array, truth: Array, found: Array) -> Array:
    """Where two labellings (rows, columns) differ, over dimmed RGB bytes.

    `AGREE`: same label; `MISSED`: only the truth is labelled; `EXTRA`: only the other is; `WRONG`: both are,
    differently.
    """
    shown = background // 2
    shown[(truth == found) & (truth != 0)] = AGREE
    shown[(truth != 0) & (found == 0)] = MISSED
    shown[(truth == 0) & (found != 0)] = EXTRA
    shown[(truth != found) & (truth != 0) & (found != 0)] = WRONG
    return shown


def png(pixels: Array) -> str:
    """RGB bytes (rows, columns, 3) as a data URI, without date or program in it."""
    file = io.BytesIO()
    imsave(
        file,
        np.ascontiguousarray(pixels),
        format="png",
        pil_kwargs={"optimize": True, "pnginfo": None},
    )
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def curve(steps: Array, values: Array, name: str) -> str:
    """One column of a training table (n,) against its step (n,), faint as it is and bold smoothed, as SVG."""
    blocks = np.array_split(np.arange(len(steps)), min(len(steps), 300))  # enough for the eye
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
    """One row of dots a group, over a box from the first to the third quartile with the median, as SVG."""
    figure, axes = _axes(4.2, 0.8 + 0.34 * len(groups))
    for row, values in enumerate(groups.values()):
        low, middle, high = np.percentile(values, [25, 50, 75])
        axes.barh(row, high - low, left=low, height=0.62, color=ACCENT, alpha=0.25)
        axes.plot([middle, middle], [row - 0.31, row + 0.31], color=ACCENT, linewidth=2)
        jitter = (np.arange(len(values)) * GOLDEN) % 1 - 0.5  # even, and the same in each run
        many = len(values) > 300  # a bitmap is then smaller than as many marks
        axes.plot(values, row + 0.45 * jitter, ".", color=INK, alpha=0.55, markersize=3, rasterized=many)
    axes.set_yticks(range(len(groups)), list(groups), parse_math=False)
    axes.set_ylim(len(groups) - 0.4, -0.6)
    axes.set_title(title, loc="left", parse_math=False)
    axes.grid(axis="x", color=INK, alpha=0.12)
    return _svg(figure)


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    """Inches."""
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="none")
    axes = figure.add_subplot(facecolor="none")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.tick_params(colors=INK, labelsize=8)
    axes.title.set(color=INK, fontsize=9)
    axes.xaxis.label.set(color=INK, fontsize=8)
    return figure, axes


def _svg(figure: Figure) -> str:
    """An inline SVG that takes its ink from the page; its text stays text, and nothing depends on the run."""
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
    return re.sub(r' id="[\w.]+_\d+"', "", text)  # ids of groups, which would clash within one page
