"""NIfTI images, read in closest-RAS axis order and written back in the orientation of their source."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel import orientations

from atlasmith.core.errors import AtlasmithError, InputError, Problem
from atlasmith.core.grid import Array, Grid
from atlasmith.core.intensity import antialias, is_constant
from atlasmith.io.files import atomic_write
from atlasmith.io.memory import kept

INTEGER_TOLERANCE = 1e-3  # from an integer, that a label may be: as by the rounding of a scaled header


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

    Raises:
        AtlasmithError: For an array that is neither 2-D nor 3-D, voxels that are no finite numbers, or an
            image that is constant: there is nothing to register.

    Example:
        >>> as_image(np.eye(8, 6), spacing=(1.0, 1.5)).grid.tensor_spacing
        (1.0, 1.5)
    """
    data = np.asarray(image.data if isinstance(image, Image) else image)
    if data.ndim not in (2, 3) or 0 in data.shape or data.dtype.kind not in "biuf":
        raise AtlasmithError(f"the image is {data.dtype} of shape {data.shape}. Give numbers (X, Y[, Z]).")
    if bad := int(np.count_nonzero(~np.isfinite(data))):
        raise AtlasmithError(
            f"{bad} voxels of the image are NaN or infinite. Replace them, by 0 for example."
        )
    if is_constant(data):
        raise AtlasmithError(f"every voxel of the image is {data.flat[0]:g}. Give an image with contrast.")
    if isinstance(image, Image):
        return image
    image = data
    sizes = np.broadcast_to(np.asarray(spacing, dtype=float), image.ndim)
    shape = (*image.shape, 1)[:3]
    return Image(image.reshape(shape), Grid(shape, np.diag([*sizes, 1.0, 1.0][:3] + [1.0])))


def load_nifti(path: str | Path) -> nib.Nifti1Image:
    """Open a NIfTI file, of version 1 or 2.

    Raises:
        InputError: For a file of another format.
    """
    file = nib.load(path)
    if not isinstance(file, nib.Nifti1Image):  # which NIfTI-2 is too, but no pair of .hdr and .img
        found = f"this can't be read as NIfTI: it is of type {type(file).__name__.removesuffix('Image')}"
        raise InputError([Problem(path, found, "Convert it to one NIfTI file (.nii.gz).")])
    return file


def _to_three_axes(image: nib.Nifti1Image) -> nib.Nifti1Image:
    """Make (X, Y, 1) of a 2-D file (X, Y)."""
    if len(image.shape) == 2:
        data = np.asanyarray(image.dataobj)[:, :, None]
        return type(image)(data, image.affine, image.header)
    return image


@kept
def read_image(path: str | Path) -> Image:
    """Read intensities.

    Args:
        path: A NIfTI file of two to four axes.

    Returns:
        float32 voxels, scaled as the header says.
    """
    image = nib.as_closest_canonical(_to_three_axes(load_nifti(path)))
    data = _contiguous(np.asarray(image.dataobj, dtype=np.float32))
    return Image(data, Grid(data.shape[:3], image.affine))


def _contiguous(data: Array) -> Array:
    """Copy voxels into C order; volumes of a stack (X, Y, Z, N) lie one after the other, as in the file."""
    if data.ndim == 3:
        return np.ascontiguousarray(data)
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(data, -1, 0)), 0, -1)


def read_antialiased(path: str | Path, spacing: float) -> Image:
    """Read intensities, smoothed as sampling them every `spacing` mm needs."""
    image = read_image(path)
    return Image(antialias(image.data, image.grid, spacing), image.grid)


@kept
def read_labels(path: str | Path) -> Image:
    """Read labels.

    Args:
        path: A NIfTI file of integers, or of floats within `INTEGER_TOLERANCE` of integers.

    Returns:
        int32 voxels.

    Raises:
        InputError: For other values.
    """
    file = load_nifti(path)
    integers = type(file)(_integers(path, file), file.affine)
    image = nib.as_closest_canonical(_to_three_axes(integers))
    data = _contiguous(np.asarray(image.dataobj))
    return Image(data, Grid(data.shape[:3], image.affine))


def _integers(path: str | Path, file: nib.Nifti1Image) -> Array:
    """Return the voxels of a label file as int32; raise `InputError` where they are no integers."""
    data = np.asanyarray(file.dataobj)
    if data.dtype.kind == "f":
        with np.errstate(invalid="ignore"):  # infinity less infinity
            broken = data[~(np.abs(data - np.rint(data)) <= INTEGER_TOLERANCE)]
        if broken.size:
            found = f"{broken.size} voxels are no integers, such as {float(broken.flat[0])!r}"
            stored: Any = file.dataobj
            if (stored.slope, stored.inter) != (1, 0):
                found += f" (scl_slope is {stored.slope:.9g}, and scl_inter {stored.inter:.9g})"
            remedy = "Resample labels with nearest neighbor, and save integers without scaling."
            raise InputError([Problem(path, found, remedy)])
        data = np.rint(data)
    limits = np.iinfo(np.int32)
    if data.size and (data.min() < limits.min or data.max() > limits.max):
        found = f"labels go from {data.min()} to {data.max()}"
        raise InputError([Problem(path, found, f"Labels lie between 0 and {limits.max}.")])
    return data.astype(np.int32)


def read_mask(path: str | Path) -> Image:
    """Read a mask: true where a voxel isn't 0."""
    labels = read_labels(path)
    return Image(labels.data != 0, labels.grid)


def read_grid(path: str | Path) -> Grid:
    """Read the closest-RAS grid of a NIfTI file from its header alone."""
    image = load_nifti(path)
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


def _nifti1_header(header: nib.Nifti1Header) -> nib.Nifti1Header:
    """Copy a header; make one of NIfTI-1 with the same geometry of NIfTI-2, which ITK can't read."""
    if not isinstance(header, nib.Nifti2Header):
        return header.copy()
    copy = nib.Nifti1Header()
    for name in header:
        if name.startswith(("pixdim", "xyzt", "qform", "quatern", "qoffset", "sform", "srow")):
            copy[name] = header[name]
    return copy


def write_image(
    path: str | Path, data: Array, grid: Grid, like: str | Path | None = None, compression: int = 4
) -> None:
    """Write an image as NIfTI-1, or as NIfTI-2 where an axis is too long.

    Args:
        path: The file; `.gz` compresses it.
        data: Voxels (X, Y, Z[, N]) in closest-RAS order. Floats are written as float32, integers in the
            smallest type that holds them.
        grid: Where they lie.
        like: A file whose axis order, dimension, form codes and units the new one gets; `grid` must be its
            closest-RAS grid.
        compression: Level of gzip, from 0, none, to 9.

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
        template = load_nifti(like)
        axes = nib.io_orientation(template.affine)
        back = orientations.ornt_transform(orientations.axcodes2ornt("RAS"), axes)
        data = orientations.apply_orientation(data, back)
        affine = template.affine
        header = _nifti1_header(template.header)
        header.set_slope_inter(1, 0)
        header["cal_min"] = header["cal_max"] = 0
        if len(template.shape) == 2 and data.ndim == 3:
            data = data[:, :, 0]
        if data.shape[: len(template.shape)] != template.shape[:3]:
            raise ValueError(f"{data.shape} voxels can't be written on the grid of {like}, {template.shape}")
    fits = max(data.shape) <= np.iinfo(np.int16).max
    image = (nib.Nifti1Image if fits else nib.Nifti2Image)(data, affine, header)
    image.set_data_dtype(kind)
    if header is not None:  # nibabel forgets the thickness of a slice with two axes
        image.header["pixdim"][:4] = template.header["pixdim"][:4]
    else:
        image.set_sform(affine, code=2)
        image.set_qform(affine, code=2)
        image.header.set_xyzt_units("mm")
    with atomic_write(path) as partial:
        if partial.name.endswith(".gz"):
            # No time stamp or file name in the gzip header: the same voxels give the same bytes.
            with (
                partial.open("wb") as raw,
                gzip.GzipFile("", "wb", compresslevel=compression, fileobj=raw, mtime=0) as packed,
            ):
                image.to_stream(packed)
        else:
            image.to_filename(partial)
