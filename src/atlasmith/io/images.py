"""NIfTI images, read in closest-RAS axis order and written back in the orientation of their source."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel import orientations

from atlasmith.core.grid import Array, Grid
from atlasmith.core.intensity import antialias
from atlasmith.io.files import atomic_write


@dataclass(frozen=True, eq=False)
class Image:
    """An image in closest-RAS axis order.

    Attributes:
        data: Voxels (X, Y, Z), or (X, Y, Z, N) for a stack.
        grid: Where they lie.
    """

    data: Array
    grid: Grid


def as_image(image: Image | Array, spacing: float | Sequence[float] = 1.0) -> Image:
    """Give an array a grid whose axes are those of the world and whose first voxel lies at its origin.

    Args:
        image: An image, which is returned as it is, or an array (X, Y) or (X, Y, Z).
        spacing: Voxel size of an array, mm: one for all axes, or one for each.

    Returns:
        The image, (X, Y, 1) in 2-D.

    Example:
        >>> as_image(np.zeros((8, 6)), spacing=(1.0, 1.5)).grid.tensor_spacing
        (1.0, 1.5)
    """
    if isinstance(image, Image):
        return image
    sizes = np.broadcast_to(np.asarray(spacing, dtype=float), image.ndim)
    shape = (*image.shape, 1)[:3]
    return Image(image.reshape(shape), Grid(shape, np.diag([*sizes, 1.0, 1.0][:3] + [1.0])))


def _load(path: str | Path) -> nib.Nifti1Image:
    return nib.Nifti1Image.from_filename(path)


def _to_three_axes(image: nib.Nifti1Image) -> nib.Nifti1Image:
    """Make (X, Y, 1) of a 2-D file (X, Y)."""
    if len(image.shape) == 2:
        data = np.asanyarray(image.dataobj)[:, :, None]
        return nib.Nifti1Image(data, image.affine, image.header)
    return image


def read_image(path: str | Path) -> Image:
    """Read intensities.

    Args:
        path: A NIfTI file of two to four axes.

    Returns:
        float32 voxels, scaled as the header says.
    """
    image = nib.as_closest_canonical(_to_three_axes(_load(path)))
    data = np.ascontiguousarray(image.dataobj, dtype=np.float32)
    return Image(data, Grid(data.shape[:3], image.affine))


def read_antialiased(path: str | Path, spacing: float) -> Image:
    """Read intensities, smoothed as sampling them every `spacing` mm needs."""
    image = read_image(path)
    return Image(antialias(image.data, image.grid, spacing), image.grid)


def read_labels(path: str | Path) -> Image:
    """Read labels.

    Args:
        path: A NIfTI file of integers, or of floats that are rounded: the cohort's checks refuse others.

    Returns:
        int32 voxels.
    """
    image = nib.as_closest_canonical(_to_three_axes(_load(path)))
    data = np.ascontiguousarray(np.rint(np.asanyarray(image.dataobj)), dtype=np.int32)
    return Image(data, Grid(data.shape[:3], image.affine))


def read_mask(path: str | Path) -> Image:
    """Read a mask: true where a voxel isn't 0."""
    labels = read_labels(path)
    return Image(labels.data != 0, labels.grid)


def read_grid(path: str | Path) -> Grid:
    """Read the closest-RAS grid of a NIfTI file from its header alone."""
    image = _load(path)
    shape = tuple(image.shape[:3]) + (1,) * (3 - len(image.shape[:3]))
    axes = nib.io_orientation(image.affine)
    affine = image.affine @ orientations.inv_ornt_aff(axes, shape)
    canonical = np.empty(3, dtype=int)
    canonical[axes[:, 0].astype(int)] = shape
    return Grid(tuple(canonical), affine)


def small_integer_type(labels: Array) -> type:
    """Choose the smallest integer type that holds some labels.

    Args:
        labels: Integers of any shape.

    Returns:
        uint8, int16 or int32, which every NIfTI reader knows.

    Raises:
        ValueError: If 32 bits are too few.
    """
    low, high = (int(labels.min()), int(labels.max())) if labels.size else (0, 0)
    for kind in (np.uint8, np.int16, np.int32):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return kind
    raise ValueError(f"labels from {low} to {high} don't fit 32 bits")


def write_image(path: str | Path, data: Array, grid: Grid, like: str | Path | None = None) -> None:
    """Write an image as NIfTI.

    Args:
        path: The file; `.gz` compresses it.
        data: Voxels (X, Y, Z[, N]) in closest-RAS order. Floats are written as float32, integers in the
            smallest type that holds them.
        grid: Where they lie.
        like: A file whose axis order, dimension, form codes and units the new one gets; `grid` must be its
            closest-RAS grid.

    Raises:
        ValueError: If the voxels don't fit the grid of `like`.

    Example:
        >>> from tempfile import mkdtemp
        >>> path = f"{mkdtemp()}/ramp.nii.gz"
        >>> write_image(path, np.arange(24.0).reshape(2, 3, 4), Grid((2, 3, 4), np.eye(4)))
        >>> read_image(path).data.max()
        np.float32(23.0)
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
