"""The channels of one scan as one array, and the voxels that may be learned from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from atlasmith.core.grid import Array, Grid
from atlasmith.io.files import read_json
from atlasmith.io.images import Image, read_antialiased, read_image, read_mask
from atlasmith.io.layout import Layout
from atlasmith.io.tables import Subject

ACQUIRED = "AcquiredGrid"  # in the sidecar of a channel that was resampled: the grid that it had before
# In the sidecar of propagated atlases:
ATLASES_OF_CHANNELS = "Channels"  # the ids of the atlases that have each channel, where there are several
EXCLUDES_REGIONS = "ExcludesRegions"  # whether there is a mask of where each atlas may be learned from


@dataclass(frozen=True, eq=False)
class Channels:
    """The channels of one scan, on one grid.

    Attributes:
        data: float32 intensities (C, X, Y, Z), 0 in a channel that the scan doesn't have.
        present: Whether the scan has each of the C channels.
        grid: Where the voxels lie.
    """

    data: Array
    present: tuple[bool, ...]
    grid: Grid


def present_channels(layout: Layout, subject: Subject) -> tuple[bool, ...]:
    """Return for each of the run's channels whether a scan has it."""
    return tuple(not subject.channels or channel in subject.channels for channel in layout.channels)


def channel_paths(layout: Layout, subject: Subject, path_of: Callable[[str, str], Path]) -> list[Path]:
    """List an output of a scan, such as `layout.preprocessed`, of each channel that it has."""
    present = present_channels(layout, subject)
    return [path_of(subject.id, c) for c, there in zip(layout.channels, present, strict=True) if there]


def read_channels(
    layout: Layout,
    subject: Subject,
    path_of: Callable[[str, str], Path],
    spacing: float | None = None,
) -> Channels:
    """Read an output of a scan that has a file for each channel.

    Args:
        layout: Names of the run's files.
        subject: The scan.
        path_of: Gives the file of a scan's id and a channel, such as `layout.preprocessed`.
        spacing: Smooth as sampling every `spacing` mm needs; None: not at all.

    Returns:
        Its channels, in the layout's order.
    """
    present = present_channels(layout, subject)
    images = {}
    for index, channel in enumerate(layout.channels):
        if present[index]:
            path = path_of(subject.id, channel)
            images[index] = read_image(path) if spacing is None else read_antialiased(path, spacing)
    first = next(iter(images.values()))
    absent = np.zeros_like(first.data)
    data = [images[index].data if index in images else absent for index in range(len(present))]
    return Channels(np.stack(data), present, first.grid)


def known_voxels(layout: Layout, subject: Subject, grid: Grid) -> Array:
    """Find the voxels of a preprocessed scan that may be learned from.

    They lie in the field of view of a channel, and outside what `cohort.exclude` names.

    Args:
        layout: Names of the run's files.
        subject: The scan.
        grid: That of its preprocessed channels.

    Returns:
        Boolean (C, X, Y, Z), false everywhere in a channel that the scan doesn't have.
    """
    present = present_channels(layout, subject)
    known = np.zeros((len(present), *grid.shape), dtype=bool)
    for index, channel in enumerate(layout.channels):
        if present[index]:
            known[index] = True if index == present.index(True) else _acquired(layout, subject, channel, grid)
    return known if subject.exclude is None else known & read_mask(layout.valid_mask(subject.id)).data


def _acquired(layout: Layout, subject: Subject, channel: str, grid: Grid) -> Array | bool:
    """Where a channel, which may have been resampled onto `grid`, has data (X, Y, Z)."""
    found = read_json(layout.preprocessed_sidecar(subject.id, channel)).get(ACQUIRED)
    return True if found is None else covered(Grid.from_dict(found), grid)


def covered(image: Grid, grid: Grid) -> Array:
    """Return which voxels (X, Y, Z) of `grid` lie in the field of view of an image on another grid.

    It ends half a voxel beyond the outermost centers.
    """
    voxels = _voxels_in(image, grid)
    size = np.array(image.tensor_shape).reshape(-1, 1, 1, 1)
    return np.all((voxels >= -0.5) & (voxels <= size - 0.5), axis=0)


def resample_onto(image: Image, grid: Grid) -> Array:
    """Resample an image linearly onto another grid (X, Y, Z), 0 outside its field of view."""
    data, voxels = image.grid.squeeze(image.data), _voxels_in(image.grid, grid)
    values: Array = ndimage.map_coordinates(data, voxels, order=1, mode="nearest")
    return values * covered(image.grid, grid)


def _voxels_in(image: Grid, grid: Grid) -> Array:
    """The positions (d, X, Y, Z) of the voxels of `grid` among those of an image of d axes."""
    matrix = np.linalg.inv(image.affine) @ grid.affine
    index = np.indices(grid.shape).reshape(3, -1)
    voxels = matrix[:3, :3] @ index + matrix[:3, 3:]
    return voxels.reshape(3, *grid.shape)[list(image.axes)]
