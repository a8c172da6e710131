"""Images given in closed form, transforms of them, and a cohort of such images for the affine stage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy.spatial.transform import Rotation

from atlasmith.config import Config, parse_config
from atlasmith.core.grid import Array, Grid
from atlasmith.core.intensity import normalize
from atlasmith.io.files import write_json
from atlasmith.io.images import Image
from atlasmith.io.tables import Subject, write_cohort
from atlasmith.preprocess import preprocess_subject

Function = Callable[[Array], Array]


def centered_grid(shape: tuple[int, int, int], spacing: float = 1.0) -> Grid:
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = -spacing * (np.array(shape) - 1) / 2
    return Grid(shape, affine)


def world(grid: Grid) -> Array:
    """Return the world coordinates (X, Y, Z, 3) of the voxels."""
    return np.moveaxis(np.indices(grid.shape), 0, -1) @ grid.affine[:3, :3].T + grid.affine[:3, 3]


def head(points: Array) -> Array:
    """Evaluate an asymmetric soft ellipsoid of radius about 13 mm with spots inside; zero outside."""
    rng = np.random.default_rng(7)
    radius = np.linalg.norm(points / [12, 15, 11], axis=-1)
    value = 1 / (1 + np.exp(12 * (radius - 1)))
    for _ in range(24):
        center, size = rng.uniform(-9, 9, 3), rng.uniform(2, 3)
        spot = np.exp(-((points - center) ** 2).sum(-1) / (2 * size**2))
        value = value * (1 + rng.uniform(-0.9, 1.2) * spot)
    return np.where(value > 0.02, value, 0)


def slab(points: Array) -> Array:
    """Evaluate a larger head with folds, for slices, which have few voxels."""
    x, y, z = np.moveaxis(points, -1, 0)
    return head(points / 1.8) * (1 + 0.4 * np.cos(0.5 * x + 0.2 * y - 0.1 * z) * np.cos(0.4 * y + 0.5 * z))


def transformed(function: Function, matrix: Array) -> Function:
    """Return the image g with g(matrix x) = function(x)."""
    inverse = np.linalg.inv(matrix)
    return lambda points: function(points @ inverse[:3, :3].T + inverse[:3, 3])


def pose(
    degrees: tuple[float, float, float] = (0, 0, 0),
    scale: tuple[float, float, float] = (1, 1, 1),
    offset: tuple[float, float, float] = (0, 0, 0),
) -> Array:
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix() @ np.diag(scale)
    matrix[:3, 3] = offset
    return matrix


def write_images_cohort(folder: Path, grid: Grid, images: dict[str, Path], **affine: object) -> Config:
    """Write the cohort's table, its grid and the preprocessed images."""
    config = parse_config({"output": str(folder / "out"), "cohort": {"bids": str(folder)}, "affine": affine})
    write_cohort(config.layout.cohort, [Subject(key, "train", path) for key, path in images.items()], [])
    write_json(config.layout.grid, grid.to_dict())
    for key in images:
        preprocess_subject(config, key)
    return config


def save(path: Path, function: Function, header: Array, shape: tuple[int, ...]) -> Path:
    """Write `function` of the world to a file of that header, in arbitrary units."""
    data = function(world(Grid((*shape, 1, 1)[:3], header)))  # type: ignore[arg-type]
    nib.save(nib.Nifti1Image((900 * data).astype(np.float32).reshape(shape), header), path)
    return path


def assert_close(found: Array, planted: Array, points: Array, limit: float) -> None:
    """Assert errors below `limit` mm on average, twice that at most, at `points` (..., 3), and 1 degree."""
    gap = points @ (found - planted)[:3, :3].T + (found - planted)[:3, 3]
    distance = np.linalg.norm(gap, axis=-1)
    assert distance.mean() < limit and distance.max() < 2 * limit
    rotation = Rotation.from_matrix(np.linalg.inv(planted[:3, :3]) @ found[:3, :3])
    assert np.degrees(rotation.magnitude()) < 1


TEMPLATE = centered_grid((36, 40, 34))
COARSE = centered_grid((24, 27, 23), 1.5)
PART = centered_grid((18, 40, 34))
HEADERS = {
    "RAS": np.eye(3),
    "LPS": np.diag([-1, -1, 1]),
    "PIR": np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0]]),
    "oblique": Rotation.from_euler("xyz", [10, -8, 12], degrees=True).as_matrix(),
    "anisotropic": np.diag([-0.8, 1.1, 1.6]),
}


def normalized(function: Function, grid: Grid) -> Image:
    """Return `function` of the world on `grid`, as the affine stage reads images."""
    return Image(normalize(function(world(grid))).astype(np.float32), grid)


def write_posed_heads(folder: Path) -> tuple[dict[str, Path], list[Array]]:
    """Write three heads in poses whose mean isn't the identity, with far-off and mixed headers."""
    poses = [
        pose((8, 0, 0), (1.1, 1, 1), (30, 0, 0)),
        pose((-6, 5, 0), (0.95, 1, 1.05), (-20, 50, 0)),
        pose((0, -7, 8), (1, 1.1, 1), (0, 0, 90)),
    ]
    images = {}
    for index, matrix in enumerate(poses):
        header = np.eye(4)
        header[:3, :3] = 1.5 * list(HEADERS.values())[index]
        header[:3, 3] = matrix[:3, 3] - header[:3, :3] @ [14.5, 14.5, 14.5]
        images[f"s{index}"] = save(
            folder / f"{index}.nii.gz", transformed(head, matrix), header, (30, 30, 30)
        )
    return images, poses
