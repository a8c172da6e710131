"""Checks of images and masks: headers, orientation and voxels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.openers import ImageOpener

from atlasmith.cohort.problems import Problems, refuse
from atlasmith.core.errors import InputError
from atlasmith.core.grid import Array, Grid
from atlasmith.core.inpainting import fill
from atlasmith.core.intensity import (
    apply_mask,
    find_background,
    is_constant,
    looks_like_hounsfield,
    normalize,
)
from atlasmith.io.images import Image, load_nifti, read_grid, read_image, read_mask

FORM_TOLERANCE = 0.1  # voxels by which the positions that a header gives in several ways may differ
MARGIN = 4  # voxels around an object, unless the config says otherwise
OVERLAP_SAMPLES = 32  # along each axis


def check_image(path: Path, window: Sequence[float] | None = None) -> None:
    """Check one image on its own.

    Args:
        path: A NIfTI file.
        window: Of `preprocess.window`.

    Raises:
        InputError: With every problem found.
    """
    problems = Problems()
    if not path.exists():
        problems.add(path, "there is no such file", "Give the path of a NIfTI image.")
    elif problems.collect_from_file(check_header, path) is not None:
        problems.collect_from_file(check_voxels, path, 0.0, window)
    if problems:
        raise InputError(problems)


def check_header(path: Path) -> Grid:
    """Check shape, type, scaling, units and orientation of a NIfTI file.

    Args:
        path: The file.

    Returns:
        Its closest-RAS grid.

    Raises:
        InputError: With the first problem found.
    """
    file: Any = load_nifti(path)
    if len([n for n in file.shape if n > 1]) < 2 or len(file.shape) not in (2, 3):
        refuse(path, f"the shape is {file.shape}", "Give one volume (X, Y, Z) or slice (X, Y) per subject.")
    if file.get_data_dtype().kind not in "iuf":
        refuse(path, f"voxels are of type {file.get_data_dtype()}", "Save integers or floats.")
    with ImageOpener(str(path)) as stream:
        # Unchecked, since nibabel otherwise corrects silently: it takes a voxel size of 0 for 1.
        raw = type(file.header).from_fileobj(stream, check=False)
    if raw["sizeof_hdr"] != raw.sizeof_hdr:
        refuse(path, f"the header says it has {raw['sizeof_hdr']} bytes", "Copy or convert it again.")
    zooms = raw["pixdim"][1 : len(file.shape) + 1]
    if not np.all(np.isfinite(zooms)) or np.any(zooms <= 0):
        refuse(path, f"voxel sizes are {zooms.tolist()} mm", "Write the true ones into the header (pixdim).")
    if np.isinf(raw["scl_slope"]):
        refuse(path, f"intensities are scaled by {raw['scl_slope']}", "Correct scl_slope in the header.")
    unit = raw.get_xyzt_units()[0]
    if unit not in ("mm", "unknown"):
        refuse(path, f"its unit is the {unit}", "Write voxel sizes and affine in mm, and declare that unit.")
    _check_affine(path, file)
    return read_grid(path)


def _check_affine(path: Path, file: Any) -> None:
    """Check that the header places the image in the world, in one way."""
    matrix = file.affine[:3, :3]
    lengths = np.linalg.norm(matrix, axis=0)
    if not np.all(np.isfinite(file.affine)) or abs(np.linalg.det(matrix)) <= 1e-6 * np.prod(lengths):
        remedy = "Write a valid sform or qform; converting from DICOM again is safest."
        refuse(path, f"the affine can't be inverted: {file.affine.tolist()}", remedy)
    forms = [
        form for form in (file.get_qform(coded=True)[0], file.get_sform(coded=True)[0]) if form is not None
    ]
    if not forms:
        refuse(
            path,
            "the header has neither a qform nor an sform, so that left and right are undefined",
            "Convert it from DICOM again, or set the sform if you know the orientation.",
        )
    shape = (*file.shape, 1)[:3]
    corners = np.array([(*np.multiply(corner, np.subtract(shape, 1)), 1) for corner in np.ndindex(2, 2, 2)])
    places = np.array([corners @ form.T for form in forms])
    distance = float(np.linalg.norm(places[0] - places[-1], axis=1).max())
    zooms = np.array(file.header.get_zooms())
    if distance > FORM_TOLERANCE * zooms.min():
        refuse(
            path,
            f"qform and sform disagree by up to {distance:.3g} mm, and tools differ in which they use",
            "Keep the right one: set the other equal to it, or its code to 0.",
        )
    lengths = lengths[: len(zooms)]
    if np.any(np.abs(lengths - zooms) * file.shape > FORM_TOLERANCE * zooms):
        refuse(
            path,
            f"pixdim says that voxels measure {_join(zooms)} mm, and the sform {_join(lengths)}; tools "
            "differ in which they use",
            "Write the true voxel sizes into both.",
        )


def _join(sizes: Array) -> str:
    return " x ".join(f"{size:.6g}" for size in sizes)


def check_mask(path: Path, image: Path, grid: Grid, required: bool) -> Array:
    """Check a mask.

    Args:
        path: A NIfTI file.
        image: The image that it is of.
        grid: The image's grid.
        required: Whether an empty mask is an error.

    Returns:
        Where it isn't 0 (X, Y, Z).

    Raises:
        InputError: For another grid than the image's, voxels that are no integers, or an empty mask.
    """
    check_header(path)
    mask = read_mask(path)
    if not mask.grid.same_as(grid, FORM_TOLERANCE):
        found = f"the mask lies on another grid ({mask.grid.shape} voxels) than {image.name} ({grid.shape})"
        refuse(path, found, "Resample it onto the image with nearest neighbor.")
    if required and not mask.data.any():
        refuse(path, "the mask is empty", "Mark where the image may be looked at.")
    return mask.data


def check_overlap(path: Path, grid: Grid, reference: Path, reference_grid: Grid) -> None:
    """Raise `InputError` where two channels of a scan show no place in common."""
    if grid.ndim != reference_grid.ndim:
        found = f"it is {grid.ndim}-D, and {reference.name} is {reference_grid.ndim}-D"
        refuse(path, found, "Channels of a scan are all 2-D or all 3-D.")
    if not (_shows(grid, reference_grid) or _shows(reference_grid, grid)):
        refuse(
            path,
            f"its field of view and that of {reference.name} have nothing in common",
            "Channels of a scan lie in one space: correct the headers, or register one to the other.",
        )


def _shows(grid: Grid, other: Grid) -> bool:
    """Whether a grid has some of the places of another, which are sampled from edge to edge."""
    axes = [np.linspace(-0.5, size - 0.5, min(2 * size + 1, OVERLAP_SAMPLES)) for size in other.shape]
    voxels = np.stack([*np.meshgrid(*axes, indexing="ij"), np.ones([len(axis) for axis in axes])], axis=-1)
    moved = (voxels @ (np.linalg.inv(grid.affine) @ other.affine).T)[..., :3]
    return bool(np.all((moved > -0.5) & (moved < np.array(grid.shape) - 0.5), axis=-1).any())


def check_voxels(
    path: Path,
    margin: float | None,
    window: Sequence[float] | None,
    mask: Array | None = None,
    exclude: tuple[Path, Array] | None = None,
) -> Array:
    """Check the intensities of an image.

    Args:
        path: A NIfTI file with a valid header.
        margin: See `foreground_extent`, mm.
        window: Of `preprocess.window`.
        mask: Where the image may be looked at (X, Y, Z).
        exclude: What may not be learned from (X, Y, Z), and its file.

    Returns:
        Size of the object (3,), mm: see `foreground_extent`.

    Raises:
        InputError: If intensities are NaN or infinite, have no contrast, or need a window, or if all of the
            object is excluded.
    """
    image = read_image(path)
    bad = int(np.count_nonzero(~np.isfinite(image.data)))
    if bad:
        refuse(path, f"{bad} voxels are NaN or infinite", "Replace them, by 0 for example.")
    low, high = float(image.data.min()), float(image.data.max())
    if is_constant(image.data):
        refuse(path, f"every voxel is {low:g}", "Replace or leave out the image.")
    if window is None and looks_like_hounsfield(image.data):
        refuse(
            path,
            f"intensities from {low:g} to {high:g} look like CT in Hounsfield units",
            "Set preprocess.window to the tissue's range, such as [-160, 240], or [0, 80] for the brain.",
        )
    values, region = image.data, None
    if exclude is not None:
        rest = values[~exclude[1] if mask is None else mask & ~exclude[1]]
        if not rest.size or np.ptp(normalize(rest, window)) == 0:
            found = f"everything that {path.name} shows is excluded"
            refuse(exclude[0], found, "Exclude less, or leave out the image.")
        region = exclude[1]
        values = fill(values, region, mask, image.grid.spacing)
    data = normalize(values if mask is None else apply_mask(values, mask), window, region)
    if data.min() == data.max():
        refuse(
            path,
            f"there is no contrast between the percentiles of its intensities, from {low:g} to {high:g}",
            "Set preprocess.window to the intensities that should become 0 and 1, or leave out the image.",
        )
    return foreground_extent(Image(data, image.grid), margin)


def foreground_extent(image: Image, margin: float | None = None) -> Array:
    """Measure the object in an image.

    In an image with background, the object is what exceeds it by 1 % of the range of intensities. An image
    without (a crop) is all object.

    Args:
        image: An image in closest-RAS order, with intensities in [0, 1].
        margin: Added on both sides of the object, mm; None for `MARGIN` voxels.

    Returns:
        Size (3,) along the image's axes, mm.
    """
    spacing, mask = np.array(image.grid.spacing), _object(image.data)
    if mask.all():
        return np.array(image.grid.shape) * spacing
    extent = []
    for axis in range(3):
        inside = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        extent.append(inside[-1] - inside[0] + 1)
    if margin is None:
        margin = MARGIN * min(image.grid.tensor_spacing)
    return np.array(extent) * spacing + 2 * margin


def _object(data: Array) -> Array:
    """Where normalized intensities (X, Y, Z) show the object; everywhere, if there is no background."""
    return np.ones(data.shape, dtype=bool) if find_background(data) is None else data > 0.01
