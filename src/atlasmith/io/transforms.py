"""ITK transform files, and SimpleITK images: where RAS meets LPS.

A transform is a list of steps (see `atlasmith.core.grid.Step`), applied to a world point from first to last,
and named as in fMRIPrep: `from-A_to-B` resamples image A onto grid B, so it maps points of B to points of A.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import SimpleITK as sitk

from atlasmith.core.errors import AtlasmithError
from atlasmith.core.grid import Array, DisplacementField, Grid, Step
from atlasmith.io.files import atomic_write
from atlasmith.io.memory import kept

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # its own inverse: RAS to LPS and back


def to_sitk(data: Array, grid: Grid) -> sitk.Image:
    """Make a SimpleITK image.

    Args:
        data: Voxels (X, Y, Z), or vectors (X, Y, Z, 3), whose components are not converted to LPS.
        grid: Where they lie.
    """
    image = sitk.GetImageFromArray(
        np.ascontiguousarray(np.moveaxis(data, (0, 1, 2), (2, 1, 0))), data.ndim == 4
    )
    size, spacing, origin, direction = _itk_geometry(grid)
    assert image.GetSize() == size
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    image.SetDirection(direction)
    return image


def from_sitk(image: sitk.Image) -> Array:
    """Return the voxels (X, Y, Z) of a SimpleITK image."""
    return np.moveaxis(sitk.GetArrayFromImage(image), (0, 1, 2), (2, 1, 0))


def _itk_geometry(grid: Grid) -> tuple[tuple[int, int, int], list[float], list[float], list[float]]:
    affine = LPS @ grid.affine
    direction = affine[:3, :3] / np.array(grid.spacing)
    return grid.shape, list(grid.spacing), affine[:3, 3].tolist(), direction.ravel().tolist()


def itk_affine(matrix: Array) -> sitk.AffineTransform:
    """Make an ITK affine of a RAS matrix (4, 4), mm."""
    lps = LPS @ matrix @ LPS
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(lps[:3, :3].ravel().tolist())
    transform.SetTranslation(lps[:3, 3].tolist())
    return transform


def write_affine(path: str | Path, matrix: Array) -> None:
    """Write a RAS pull-back matrix (4, 4), mm, as an ITK affine (`.mat`)."""
    with atomic_write(path) as partial:
        sitk.WriteTransform(itk_affine(matrix), str(partial))


def read_affine(path: str | Path) -> Array:
    """Read the RAS pull-back matrix (4, 4), mm, of an ITK affine file."""
    transform = sitk.AffineTransform(sitk.ReadTransform(str(path)))
    center = np.array(transform.GetCenter())
    lps = np.eye(4)
    lps[:3, :3] = np.array(transform.GetMatrix()).reshape(3, 3)
    lps[:3, 3] = np.array(transform.GetTranslation()) + center - lps[:3, :3] @ center
    return LPS @ lps @ LPS


def write_composite(path: str | Path, steps: Sequence[Step]) -> None:
    """Write a transform as an ITK composite (`.h5`), in single precision and compressed.

    ITK applies the transform that was added last first, so the steps are stored in reverse.

    Args:
        path: The file.
        steps: Affine matrices (4, 4) and displacement fields, RAS mm, first applied first.

    Example:
        >>> from tempfile import mkdtemp
        >>> path = f"{mkdtemp()}/from-T1w_to-Template_mode-image_xfm.h5"
        >>> write_composite(path, [np.diag([1.0, 1.0, 2.0, 1.0])])
        >>> read_composite(path)[0].diagonal()
        array([1., 1., 2., 1.])
    """
    with atomic_write(path) as partial, h5py.File(partial, "w") as file:
        for name, value in (
            ("ITKVersion", "5.4.0"),
            ("HDFVersion", "1.12.1"),
            ("OSName", ""),
            ("OSVersion", ""),
        ):
            file[name] = _text(value)
        file["TransformGroup/0/TransformType"] = _text("CompositeTransform_float_3_3")
        for index, step in enumerate(reversed(steps), start=1):
            group = file.create_group(f"TransformGroup/{index}")
            if isinstance(step, DisplacementField):
                kind = "DisplacementFieldTransform_float_3_3"
                size, spacing, origin, direction = _itk_geometry(step.grid)
                fixed = [*size, *origin, *spacing, *direction]
                vectors = step.vectors * np.diag(LPS)[:3]
                parameters = np.transpose(vectors, (2, 1, 0, 3)).ravel()
            else:
                kind = "AffineTransform_float_3_3"
                lps = LPS @ step @ LPS
                fixed = [0.0, 0.0, 0.0]
                parameters = np.concatenate([lps[:3, :3].ravel(), lps[:3, 3]])
            group["TransformType"] = _text(kind)
            group["TransformFixedParameters"] = np.array(fixed, dtype=np.float64)
            group.create_dataset(
                "TransformParameters",
                data=parameters.astype(np.float32),
                compression="gzip",
                compression_opts=1,
                shuffle=True,
            )


def _text(value: str) -> Array:
    """Encode text as ITK reads it: one ASCII string of variable length."""
    return np.array([value.encode("ascii")], dtype=h5py.string_dtype("ascii"))


@kept
def read_composite(path: str | Path) -> list[Step]:
    """Read a transform from an ITK composite (`.h5`).

    Args:
        path: A file of affines and displacement fields.

    Returns:
        Affine matrices (4, 4) and displacement fields, RAS mm, first applied first.

    Raises:
        AtlasmithError: If there is a transform of another type.
    """
    steps: list[Step] = []
    with h5py.File(path, "r") as file:
        groups = file["TransformGroup"]
        for index in sorted((int(name) for name in groups if name != "0"), reverse=True):
            group = groups[str(index)]
            kind = group["TransformType"][0].decode()
            fixed = group["TransformFixedParameters"][()]
            parameters = group["TransformParameters"][()]
            if kind.startswith("DisplacementFieldTransform"):
                size = tuple(int(n) for n in fixed[:3])
                affine = np.eye(4)
                affine[:3, :3] = fixed[9:18].reshape(3, 3) * fixed[6:9]
                affine[:3, 3] = fixed[3:6]
                vectors = np.transpose(parameters.reshape(*size[::-1], 3), (2, 1, 0, 3))
                vectors = np.ascontiguousarray(vectors, dtype=np.float32)  # which is sampled much faster
                vectors *= np.diag(LPS)[:3].astype(np.float32)
                steps.append(DisplacementField(Grid((size[0], size[1], size[2]), LPS @ affine), vectors))
            elif kind.startswith(("AffineTransform", "MatrixOffsetTransformBase")):
                lps = np.eye(4)
                lps[:3, :3] = parameters[:9].reshape(3, 3)
                lps[:3, 3] = parameters[9:] + fixed - lps[:3, :3] @ fixed
                steps.append(LPS @ lps @ LPS)
            else:
                raise AtlasmithError(f"{path}: {kind} is neither affine nor displacement field")
    return steps
