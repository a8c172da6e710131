"""NIfTI images, read in closest-RAS axis order and written back in the subject's own orientation."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel import orientations

from atlasmith.core.grid import Array, Grid
from atlasmith.io.files import atomic_write


@dataclass(frozen=True, eq=False)
class Image:
    """data: (X, Y, Z), or (X, Y, Z, N) for a stack, in closest-RAS order, on `grid`."""

    data: Array
    grid: Grid


def _load(path: str | Path) -> nib.Nifti1Image:
    return nib.Nifti1Image.from_filename(path)


def _to_three_axes(image: nib.Nifti1Image) -> nib.Nifti1Image:
    """A 2-D file (X, Y) becomes (X, Y, 1)."""
    if len(image.shape) == 2:
        data = np.asanyarray(image.dataobj)[:, :, None]
        return nib.Nifti1Image(data, image.affine, image.header)
    return image


def read_image(path: str | Path) -> Image:
    """Intensities in float32."""
    image = nib.as_closest_canonical(_to_three_axes(_load(path)))
    data = np.ascontiguousarray(image.dataobj, dtype=np.float32)
    return Image(data, Grid(data.shape[:3], image.affine))


def read_labels(path: str | Path) -> Image:
    """Labels in int32. Files of floats are rounded; the cohort's checks refuse what isn't integer."""
    image = nib.as_closest_canonical(_to_three_axes(_load(path)))
    data = np.ascontiguousarray(np.rint(np.asanyarray(image.dataobj)), dtype=np.int32)
    return Image(data, Grid(data.shape[:3], image.affine))


def read_grid(path: str | Path) -> Grid:
    """The closest-RAS grid of a file, from its header alone."""
    image = _load(path)
    shape = tuple(image.shape[:3]) + (1,) * (3 - len(image.shape[:3]))
    axes = nib.io_orientation(image.affine)
    affine = image.affine @ orientations.inv_ornt_aff(axes, shape)
    canonical = np.empty(3, dtype=int)
    canonical[axes[:, 0].astype(int)] = shape
    return Grid(tuple(canonical), affine)


def small_integer_type(labels: Array) -> type:
    """The smallest unsigned or signed integer type that NIfTI readers agree on and that holds `labels`."""
    low, high = (int(labels.min()), int(labels.max())) if labels.size else (0, 0)
    for kind in (np.uint8, np.int16, np.int32):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return kind
    raise ValueError(f"labels from {low} to {high} don't fit 32 bits")


def write_image(path: str | Path, data: Array, grid: Grid, like: str | Path | None = None) -> None:
    """Write (X, Y, Z[, N]) in closest-RAS order on `grid`; floats as float32, integers in the smallest type.

    With `like`, the file gets that file's axis order, dimension, form codes and units, and `grid` must be
    the closest-RAS grid of `like`.
    """
    kind = np.float32 if np.issubdtype(data.dtype, np.floating) else small_integer_type(data)
    data = data.astype(kind, copy=False)
    affine = grid.affine
    header = None
    if like is not None:
        template = _load(like)
        axes = nib.io_orientation(template.affine)
        back = orientations.ornt_transform(orientations.axcodes2ornt("RAS"), axes)
        data = orientations.apply_orientation(data, back)
        affine = template.affine
        header = template.header.copy()
        header.set_slope_inter(1, 0)
        header["cal_min"] = header["cal_max"] = 0
        if len(template.shape) == 2 and data.ndim == 3:
            data = data[:, :, 0]
        if data.shape[: len(template.shape)] != template.shape[:3]:
            raise ValueError(f"{data.shape} voxels can't be written on the grid of {like}, {template.shape}")
    image = nib.Nifti1Image(data, affine, header)
    image.set_data_dtype(kind)
    if header is None:
        image.set_sform(affine, code=2)
        image.set_qform(affine, code=2)
        image.header.set_xyzt_units("mm")
    with atomic_write(path) as partial:
        if partial.name.endswith(".gz"):
            # No time stamp or file name in the gzip header: the same voxels give the same bytes.
            with (
                partial.open("wb") as raw,
                gzip.GzipFile("", "wb", compresslevel=4, fileobj=raw, mtime=0) as packed,
            ):
                image.to_stream(packed)
        else:
            image.to_filename(partial)
