"""Transforms between worlds, in millimetres: lists of steps, composed before one sampling."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from atlasmith.core.grid import Array, DisplacementField, Grid, Step
from atlasmith.core.sampling import Mode, coordinates, sample, sample_labels


def _apply(matrix: Array, points: Tensor) -> Tensor:
    """A (4, 4) matrix applied to points (N, 3)."""
    affine = torch.as_tensor(matrix, dtype=points.dtype, device=points.device)
    return points @ affine[:3, :3].T + affine[:3, 3]


def to_tensor(grid: Grid, data: Array, like: Tensor) -> Tensor:
    """(X, Y, Z, C) on `grid` as (1, C, *grid.tensor_shape)."""
    return torch.as_tensor(grid.squeeze(data), dtype=like.dtype, device=like.device).movedim(-1, 0)[None]


def inside(voxels: Tensor, shape: Sequence[int]) -> Tensor:
    """Whether voxel coordinates (..., d) lie in an image of `shape`, half a voxel beyond its centers."""
    limits = torch.tensor(shape, dtype=voxels.dtype, device=voxels.device) - 0.5
    return ((voxels >= -0.5) & (voxels <= limits)).all(dim=-1)


def _displacement_at(field: DisplacementField, points: Tensor) -> Tensor:
    """Displacements (N, 3) at world points (N, 3): linear, and zero outside the field, as ITK has it."""
    grid = field.grid
    voxels = _apply(np.linalg.inv(grid.affine), points)
    within = inside(voxels, grid.shape)[:, None]
    in_plane = voxels[:, list(grid.axes)].T[None].reshape(1, grid.ndim, -1, *[1] * (grid.ndim - 1))
    values = sample(to_tensor(grid, field.vectors, points), in_plane, padding="border")
    return values.reshape(3, -1).T * within


def transform_points(steps: Sequence[Step], points: Tensor) -> Tensor:
    """World points (N, 3), RAS mm, taken through `steps` from first to last."""
    for step in steps:
        points = (
            points + _displacement_at(step, points)
            if isinstance(step, DisplacementField)
            else _apply(step, points)
        )
    return points


def world_points(grid: Grid) -> Tensor:
    """World points (N, 3), RAS mm, of the voxels of `grid`; in double precision, as origins are far."""
    index = coordinates(grid.shape, torch.zeros((), dtype=torch.float64))[0].reshape(3, -1).T
    return _apply(grid.affine, index)


def to_voxels(points: Tensor, moving: Grid, shape: Sequence[int]) -> Tensor:
    """World points (N, 3) as voxel coordinates (1, d, *shape) in `moving`, float32; `shape` has N points."""
    voxels = _apply(np.linalg.inv(moving.affine), points).float()
    return voxels[:, list(moving.axes)].T.reshape(1, moving.ndim, *shape)


def resampling_coordinates(moving: Grid, steps: Sequence[Step], fixed: Grid) -> Tensor:
    """Voxel coordinates (1, d, *fixed.tensor_shape) in `moving` of the voxels of `fixed`."""
    return to_voxels(transform_points(steps, world_points(fixed)), moving, fixed.tensor_shape)


def resample(
    image: Tensor, moving: Grid, steps: Sequence[Step], fixed: Grid, mode: Mode = "bilinear"
) -> Tensor:
    """`image` (1, C, *moving.tensor_shape) resampled once onto `fixed` (1, C, *fixed.tensor_shape).

    Zero outside the image, which ends half a voxel beyond its outermost centers, as ITK has it.
    """
    points = resampling_coordinates(moving, steps, fixed)
    return sample(image, points, mode, "border") * inside(points[0].movedim(0, -1), moving.tensor_shape)


def resample_labels(labels: Array, moving: Grid, steps: Sequence[Step], fixed: Grid) -> Tensor:
    """Integer `labels` (X, Y, Z) on `moving` resampled once onto `fixed`, as `sample_labels` has it:
    (*fixed.tensor_shape)."""
    own = torch.from_numpy(moving.squeeze(labels))
    return sample_labels(own, resampling_coordinates(moving, steps, fixed))


def displacement_to_field(displacement: Tensor, grid: Grid) -> DisplacementField:
    """A displacement (d, *grid.tensor_shape) in voxels of `grid` as a world field in mm."""
    axes = grid.affine[:3, list(grid.axes)]  # mm a voxel along each tensor axis
    vectors = np.einsum("wd,d...->...w", axes, displacement.detach().cpu().double().numpy())
    return DisplacementField(grid, grid.unsqueeze(vectors.astype(np.float32)))
