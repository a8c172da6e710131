"""Image files: finding them, and checks of headers, orientation and voxels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.openers import ImageOpener

from atlasmith.cohort.problems import Problems, abbreviate, refuse
from atlasmith.config import Config
from atlasmith.core.errors import InputError
from atlasmith.core.grid import Array, Grid
from atlasmith.core.intensity import apply_mask, find_background, looks_like_hounsfield, normalize
from atlasmith.io.files import nifti_files
from atlasmith.io.images import Image, read_grid, read_image, read_mask

FORM_TOLERANCE = 0.1  # voxels that a qform and an sform may differ by


def find_images(config: Config, ids: Sequence[str], problems: Problems) -> dict[str, Path]:
    """Find the image of each subject.

    Args:
        config: The run's config.
        ids: Ids without `sub-`.
        problems: Where subjects without image, or with several, are added.

    Returns:
        Absolute paths by id.
    """
    bids, suffix = config.cohort.bids, config.cohort.suffix
    found = {name: nifti_files(bids, name, suffix) for name in ids}
    if ids and not any(found.values()):
        remedy = "Check cohort.bids and cohort.suffix; session folders (ses-*) aren't searched."
        problems.add(bids, f"no subject has an image sub-X/anat/sub-X_*{suffix}.nii.gz", remedy)
        return {}
    for name, paths in found.items():
        if not paths:
            path = bids / f"sub-{name}" / "anat" / f"sub-{name}_{suffix}.nii.gz"
            problems.add(path, "no such image", "Add it, or remove the subject from participants.tsv.")
        elif len(paths) > 1:
            names = abbreviate([path.name for path in paths])
            problems.add(paths[0].parent, f"several images: {names}", f"Leave one *_{suffix} image there.")
    return {name: paths[0] for name, paths in found.items() if len(paths) == 1}


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
    file: Any = nib.load(path)
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
    if distance > FORM_TOLERANCE * min(file.header.get_zooms()[: len(file.shape)]):
        refuse(
            path,
            f"qform and sform disagree by up to {distance:.3g} mm, and tools differ in which they use",
            "Keep the right one: set the other equal to it, or its code to 0.",
        )


def find_masks(config: Config, ids: Sequence[str], problems: Problems) -> dict[str, Path]:
    """Find the mask of each subject, where the config names a folder of masks.

    Args:
        config: The run's config.
        ids: Ids without `sub-`.
        problems: Where subjects without mask, or with several, are added.

    Returns:
        Absolute paths by id.
    """
    if config.preprocess.masks is None:
        return {}
    folder = config.cohort.bids / config.preprocess.masks
    masks = {}
    for name in ids:
        paths = nifti_files(folder, name, "mask")
        if len(paths) == 1:
            masks[name] = paths[0]
        else:
            path = folder / f"sub-{name}" / "anat" / f"sub-{name}_mask.nii.gz"
            found = f"there are {len(paths)} masks of this subject"
            problems.add(path, found, "Give each subject one mask, or set preprocess.masks to null.")
    return masks


def check_voxels(
    path: Path, margin: float, window: Sequence[float] | None, mask_path: Path | None = None
) -> Array:
    """Check the intensities of an image.

    Args:
        path: A NIfTI file with a valid header.
        margin: See `foreground_extent`, mm.
        window: Of `preprocess.window`.
        mask_path: The image's mask, if there is one.

    Returns:
        Size of the object (3,), mm: see `foreground_extent`.

    Raises:
        InputError: If intensities are NaN or infinite, have no contrast, or need a window.
    """
    image = read_image(path)
    bad = int(np.count_nonzero(~np.isfinite(image.data)))
    if bad:
        refuse(path, f"{bad} voxels are NaN or infinite", "Replace them, by 0 for example.")
    low, high = float(image.data.min()), float(image.data.max())
    if low == high:
        refuse(path, f"every voxel is {low:g}", "Replace or leave out the image.")
    if window is None and looks_like_hounsfield(image.data):
        refuse(
            path,
            f"intensities from {low:g} to {high:g} look like CT in Hounsfield units",
            "Set preprocess.window to the tissue's range, such as [-160, 240], or [0, 80] for the brain.",
        )
    raw = image.data
    if mask_path is not None:
        mask = read_mask(mask_path)
        if not mask.grid.same_as(image.grid) or not mask.data.any():
            remedy = "Give a mask on the image's grid that is not empty."
            refuse(mask_path, f"the mask doesn't fit {path.name}", remedy)
        raw = apply_mask(raw, mask.data)
    data = normalize(raw, window)
    if data.min() == data.max():
        refuse(
            path,
            f"there is no contrast between the percentiles of its intensities, from {low:g} to {high:g}",
            "Set preprocess.window to the intensities that should become 0 and 1, or leave out the image.",
        )
    return foreground_extent(Image(data, image.grid), margin)


def foreground_extent(image: Image, margin: float) -> Array:
    """Measure the object in an image.

    In an image with background, the object is what exceeds it by 1 % of the range of intensities. An image
    without (a crop) is all object.

    Args:
        image: An image in closest-RAS order, with intensities in [0, 1].
        margin: Added on both sides of the object, mm.

    Returns:
        Size (3,) along the image's axes, mm.
    """
    spacing = np.array(image.grid.spacing)
    if find_background(image.data) is None:
        return np.array(image.grid.shape) * spacing
    mask = image.data > 0.01
    extent = []
    for axis in range(3):
        inside = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        extent.append(inside[-1] - inside[0] + 1)
    return np.array(extent) * spacing + 2 * margin
