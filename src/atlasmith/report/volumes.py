"""Volumes for the viewer of the report's pages: cropped, coarse enough, in bytes, as NIfTI in base64."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Mapping
from dataclasses import dataclass

import nibabel as nib
import numpy as np
from scipy import ndimage

from atlasmith.core.grid import Array, Grid
from atlasmith.core.intensity import antialias
from atlasmith.report.pictures import window

MAX_VOXELS = 600_000  # of a volume, which bounds the size of a page
MARGIN, MARGIN_MM = 4, 4.0  # around what is shown: so many voxels, but no more mm
COARSER = 1.05  # step of the search for the voxel size


@dataclass(frozen=True, eq=False)
class View:
    """The part of a grid that a viewer shows, and its voxel size.

    Args:
        grid: Of the volumes.
        box: The part that is shown, three slices.
        shown: Its grid, with larger voxels where it has too many.
        spacing: Voxel size of `shown` along the axes that were made coarser, mm; 0: none was.
    """

    grid: Grid
    box: tuple[slice, ...]
    shown: Grid
    spacing: float

    @property
    def coarse_text(self) -> str:
        """The voxel size that is shown, where it isn't the grid's own; else empty."""
        sizes = " × ".join(f"{mm:.2g}" for mm in self.shown.tensor_spacing)
        return f"{sizes} mm" if self.spacing else ""

    def encode_image(self, data: Array, limits: tuple[float, float] | None = None) -> str:
        """Encode intensities.

        Args:
            data: (X, Y, Z) on the view's grid.
            limits: Intensities that become black and white; None: the 0.5th and 99.5th percentile.

        Returns:
            gzipped NIfTI of bytes, in base64.
        """
        low, high = limits or window(data)
        finite = np.nan_to_num(data, nan=low).astype(np.float32)
        smooth = antialias(finite, self.grid, self.spacing)
        level = np.clip((self._sample(smooth, order=1) - low) / (high - low), 0, 1)
        return _nifti(np.rint(255 * level).astype(np.uint8), self.shown)

    def encode_labels(self, data: Array, ranks: Mapping[int, int]) -> str:
        """Encode labels (X, Y, Z), as their ranks from 1; those without a rank are left out."""
        known = np.array(sorted(ranks), dtype=np.int64)
        values = self._sample(data, order=0)
        places = np.searchsorted(known, values).clip(max=max(len(known) - 1, 0))
        found = np.zeros(values.shape, np.uint8 if len(known) < 256 else np.uint16)
        if len(known):
            is_known = known[places] == values
            found[is_known] = np.array([ranks[int(value)] for value in known])[places[is_known]]
        return _nifti(found, self.shown)

    def position(self, voxel: Array) -> list[float]:
        """Convert voxel coordinates (3) of the grid to fractions (3) of the shown volume."""
        start = np.array([part.start for part in self.box])
        size = np.array([part.stop - part.start for part in self.box])
        return [round(float(x), 4) for x in np.clip((np.asarray(voxel) - start + 0.5) / size, 0, 1)]

    def _sample(self, data: Array, order: int) -> Array:
        """Sample the box on the shown grid, linearly (order 1) or from the nearest voxel (0)."""
        cropped = data[self.box]
        if cropped.shape == self.shown.shape:
            return cropped
        scale = np.array(cropped.shape) / self.shown.shape
        return ndimage.affine_transform(
            cropped, scale, (scale - 1) / 2, self.shown.shape, order=order, mode="nearest"
        )


def make_view(grid: Grid, content: Array) -> View:
    """Choose the part of a grid around what is to be seen, and the voxel size of the volumes shown.

    Args:
        grid: Of the volumes.
        content: (X, Y, Z), true where there is something to see.

    Returns:
        The view, of `MAX_VOXELS` at most.
    """
    box = []
    for axis in range(3):
        found = np.flatnonzero(content.any(axis=tuple(other for other in range(3) if other != axis)))
        margin = min(MARGIN, int(np.ceil(MARGIN_MM / grid.spacing[axis])))
        low, high = (found[0], found[-1] + 1) if found.size else (0, grid.shape[axis])
        box.append(slice(max(0, int(low) - margin), min(grid.shape[axis], int(high) + margin)))
    shown = cropped = grid.cropped(box)
    spacing = 0.0
    while np.prod(shown.shape) > MAX_VOXELS:
        spacing = COARSER * (spacing or min(grid.tensor_spacing))
        shown = cropped.resampled(spacing)
    return View(grid, tuple(box), shown, spacing)


def _nifti(data: Array, grid: Grid) -> str:
    """Encode bytes; a single slice is repeated, since the viewer draws outlines in volumes alone."""
    thin = [axis for axis in range(3) if axis not in grid.axes]
    affine = grid.affine.copy()
    for axis in thin:
        data = np.repeat(data, 3, axis=axis)
        affine[:3, 3] -= affine[:3, axis]
    image = nib.Nifti1Image(np.ascontiguousarray(data), affine)
    return base64.b64encode(gzip.compress(image.to_bytes(), 6, mtime=0)).decode("ascii")
