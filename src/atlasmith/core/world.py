"""Transforms between worlds, in millimeters: lists of steps, composed before one interpolation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from atlasmith.core.grid import Array, DisplacementField, Grid, Step
from atlasmith.core.sampling import Mode, coordinates, sample, sample_labels


def _apply(matrix: Array, points: Tensor) -> Tensor:
    """Apply a (4, 4) matrix to points (N, 3)."""
    affine = torch.as_tensor(matrix, dtype=points.dtype, device=points.device)
    return torch.addmm(affine[:3, 3], points, affine[:3, :3].T)


def to_tensor(grid: Grid, data: Array, like: Tensor) -> Tensor:
    """Convert (X, Y, Z, C) on `grid` to (1, C, *grid.tensor_shape), of the type and device of `like`."""
    return torch.as_tensor(grid.squeeze(data), dtype=like.dtype, device=like.device).movedim(-1, 0)[None]


def inside(voxels: Tensor, shape: Sequence[int]) -> Tensor:
    """Return whether voxel coordinates (..., d) are at most half a voxel outside the centers of an image."""
    limits = torch.tensor(shape, dtype=voxels.dtype, device=voxels.device) - 0.5
    return ((voxels >= -0.5) & (voxels <= limits)).all(dim=-1)


class _FieldSampler:
    """Sample displacement fields on one grid at the same world points (N, 3)."""

    def __init__(self, grid: Grid, points: Tensor) -> None:
        self.grid, self.like = grid, points
        voxels = _apply(np.linalg.inv(grid.affine), points)
        self.within = inside(voxels, grid.shape)[:, None]
        self.coordinates = (
            voxels[:, list(grid.axes)].T[None].reshape(1, grid.ndim, -1, *[1] * (grid.ndim - 1))
        )

    def fits(self, grid: Grid) -> bool:
        """Return whether `grid` is the sampler's own."""
        return grid.shape == self.grid.shape and np.array_equal(grid.affine, self.grid.affine)

    def __call__(self, field: DisplacementField) -> Tensor:
        """Displacements (N, 3): linear, and zero outside the field, as ITK has it."""
        vectors = to_tensor(self.grid, field.vectors, self.like)
        values = sample(vectors, self.coordinates, padding="border")
        return values.reshape(3, -1).T * self.within


def transform_points(steps: Sequence[Step], points: Tensor) -> Tensor:
    """Transform world points (N, 3), RAS mm, by `steps`, first applied first."""
    return next(transform_points_each([steps], points))


def transform_points_each(transforms: Iterable[Sequence[Step]], points: Tensor) -> Iterator[Tensor]:
    """Transform the same points by each of several transforms, one at a time.

    Where transforms begin with fields on the same grid, as those from a template to its subjects, the points
    are located in it once.

    Args:
        transforms: Lists of steps, first applied first.
        points: World points (N, 3), RAS mm.

    Returns:
        The transformed points (N, 3) of each transform.
    """
    first: _FieldSampler | None = None
    for steps in transforms:
        moved, matrix = points, np.eye(4)
        for index, step in enumerate(steps):
            if not isinstance(step, DisplacementField):
                matrix = step @ matrix
                continue
            moved = _applied(matrix, moved)
            if index == 0:
                first = (
                    first if first is not None and first.fits(step.grid) else _FieldSampler(step.grid, points)
                )
            sampler = first if index == 0 and first is not None else _FieldSampler(step.grid, moved)
            moved, matrix = moved + sampler(step), np.eye(4)
        yield _applied(matrix, moved)


def _applied(matrix: Array, points: Tensor) -> Tensor:
    """Apply a (4, 4) matrix to points (N, 3), unless it is the identity."""
    return points if np.array_equal(matrix, np.eye(4)) else _apply(matrix, points)


def world_points(grid: Grid) -> Tensor:
    """Compute the world points (N, 3), RAS mm, of a grid's voxels, in double precision."""
    index = coordinates(grid.shape, torch.zeros((), dtype=torch.float64))[0].reshape(3, -1).T
    return _apply(grid.affine, index)


def to_voxels(points: Tensor, moving: Grid, shape: Sequence[int]) -> Tensor:
    """Convert world points (N, 3) to voxel coordinates (1, d, *shape) in `moving`, float32.

    Args:
        points: World points, RAS mm.
        moving: The grid that is to be sampled.
        shape: The spatial shape of the points, of N voxels.
    """
    return arrange(_apply(np.linalg.inv(moving.affine), points), moving, shape)


def arrange(voxels: Tensor, moving: Grid, shape: Sequence[int]) -> Tensor:
    """Arrange voxel coordinates (N, 3) in `moving` for sampling: (1, d, *shape), float32."""
    return voxels.float()[:, list(moving.axes)].T.reshape(1, moving.ndim, *shape)


def resampling_coordinates(moving: Grid, steps: Sequence[Step], fixed: Grid) -> Tensor:
    """Map the voxels of `fixed` by `steps` to voxel coordinates (1, d, *fixed.tensor_shape) in `moving`."""
    return to_voxels(transform_points(steps, world_points(fixed)), moving, fixed.tensor_shape)


def resample(
    image: Tensor, moving: Grid, steps: Sequence[Step], fixed: Grid, mode: Mode = "bilinear"
) -> Tensor:
    """Resample an image to another grid, with a single interpolation.

    Args:
        image: (1, C, *moving.tensor_shape).
        moving: The image's grid.
        steps: The transform from the world of `fixed` to that of `moving`.
        fixed: The new grid.
        mode: As in `sample`.

    Returns:
        (1, C, *fixed.tensor_shape); zero outside the image, which, as in ITK, ends half a voxel beyond its
        outermost centers.

    Example:
        >>> grid = Grid((3, 2, 1), np.eye(4))
        >>> shift = np.array([[1.0, 0, 0, 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
        >>> resample(torch.arange(6.0).view(1, 1, 3, 2), grid, [shift], grid)[0, 0]
        tensor([[2., 3.],
                [4., 5.],
                [0., 0.]])
    """
    points = resampling_coordinates(moving, steps, fixed)
    return sample(image, points, mode, "border") * inside(points[0].movedim(0, -1), moving.tensor_shape)


def resample_labels(labels: Array, moving: Grid, steps: Sequence[Step], fixed: Grid) -> Tensor:
    """Resample an integer label map (X, Y, Z) from `moving` to `fixed`, by `sample_labels`:
    (*fixed.tensor_shape)."""
    data = torch.from_numpy(moving.squeeze(labels))
    return sample_labels(data, resampling_coordinates(moving, steps, fixed))


def displacement_to_field(displacement: Tensor, grid: Grid) -> DisplacementField:
    """Convert a displacement (d, *grid.tensor_shape), voxels of `grid`, to a field in mm."""
    axes = grid.affine[:3, list(grid.axes)]  # world vector of a voxel along each tensor axis
    vectors = np.einsum("wd,d...->...w", axes, displacement.detach().cpu().double().numpy())
    return DisplacementField(grid, grid.unsqueeze(vectors.astype(np.float32)))
