"""Pictures of arrays: planes of volumes, and outlines of labels over them, as PNG."""

from __future__ import annotations

import base64
import colorsys
import io
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.image import imsave

from atlasmith.core.grid import Array, Grid

PLANES = ("sagittal", "coronal", "axial")  # across axis 0, 1, 2
LONGEST = 288  # pixels of a picture's longer side, at most, which bounds the size of the page
GOLDEN = 0.618034
MIN_LUMINANCE = 0.3  # of a label's color, 0 is black and 1 is white

Color = tuple[int, int, int]  # RGB bytes


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


def palette(labels: Sequence[int]) -> dict[int, Color]:
    """Choose a color (RGB bytes) for each label, with hues in steps of the golden ratio.

    Labels next to each other in rank get clearly different colors.
    """
    colors = {}
    for rank, label in enumerate(sorted(labels)):
        saturation, value = ((0.9, 1.0), (0.55, 1.0), (0.8, 0.75))[rank // 12 % 3]
        red, green, blue = colorsys.hsv_to_rgb((0.02 + rank * GOLDEN) % 1, saturation, value)
        colors[label] = (round(255 * red), round(255 * green), round(255 * blue))
    return colors


def lightened(color: Color) -> Color:
    """Mix a color (RGB bytes) with white until it can be seen over a dark image.

    Example:
        >>> lightened((255, 225, 25)), lightened((0, 0, 117))
        ((255, 225, 25), (70, 70, 155))
    """
    luminance = float(np.dot((0.2126, 0.7152, 0.0722), color)) / 255
    share = max(0.0, (MIN_LUMINANCE - luminance) / (1 - luminance))
    red, green, blue = (round(value + share * (255 - value)) for value in color)
    return red, green, blue


def outlines(background: Array, labels: Array, colors: Mapping[int, Color]) -> Array:
    """Draw the outlines of labels (rows, columns) over RGB bytes, at twice the size, so that they are thin.

    Labels without a color are left out.
    """
    shown = np.repeat(np.repeat(background, 2, axis=0), 2, axis=1)
    large = np.repeat(np.repeat(labels, 2, axis=0), 2, axis=1)
    padded = np.pad(large, 1, mode="edge")
    neighbors = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    edge = np.any([neighbor != large for neighbor in neighbors], axis=0)
    for label in np.unique(large):
        if int(label) in colors:
            shown[edge & (large == label)] = colors[int(label)]
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
