"""Transforms between worlds, in millimeters: lists of steps, composed before one interpolation."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from atlasmith.core.grid import Array, DisplacementField, Grid, Step
from atlasmith.core.label_sampling import LabelSampler
from atlasmith.core.sampling import (
    Mode,
    coordinates,
    normalize_points,
    points_at_once,
    sample,
    sample_normalized,
)

CPU = torch.device("cpu")


def apply_affine(matrix: Array | Tensor, points: Tensor) -> Tensor:
    """Apply a matrix (4, 4) to points (N, 3), on the points' device."""
    affine = torch.as_tensor(matrix, dtype=points.dtype, device=points.device)
    # In memory the result is (3, N), as products with it, and each of its axes, are then fast.
    return torch.addmm(affine[:3, 3:], affine[:3, :3], points.T).T


def to_tensor(grid: Grid, data: Array, like: Tensor) -> Tensor:
    """Convert (X, Y, Z, C) on `grid` to (1, C, *grid.tensor_shape), of the type and device of `like`."""
    # With the last axis of the grid, along which points follow one another, among the last in memory.
    return (
        torch.from_numpy(grid.squeeze(data)).to(like.device).contiguous().to(like.dtype).movedim(-1, 0)[None]
    )


def inside(voxels: Tensor, shape: Sequence[int]) -> Tensor:
    """Return whether voxel coordinates (..., d) are at most half a voxel outside the centers of an image."""
    axes = zip(voxels.unbind(-1), shape, strict=True)
    return functools.reduce(torch.logical_and, ((x >= -0.5) & (x <= n - 0.5) for x, n in axes))


class _LocatedPoints:
    """World points (N, 3), located in a grid that displacement fields may have."""

    def __init__(self, grid: Grid, points: Tensor) -> None:
        self.grid = grid
        voxels = apply_affine(np.linalg.inv(grid.affine), points)
        self.within = inside(voxels, grid.shape)
        axes = torch.stack([voxels[:, axis] for axis in grid.axes])[None]
        self.normalized = normalize_points(axes, grid.tensor_shape)[0]

    def fits(self, grid: Grid) -> bool:
        """Return whether `grid` is that in which the points were located."""
        return grid.shape == self.grid.shape and np.array_equal(grid.affine, self.grid.affine)

    def displacements(self, vectors: Tensor, part: slice = slice(None)) -> Tensor:
        """Sample vectors (1, 3, *grid.tensor_shape) at a part of the points: (n, 3).

        Linear, and zero outside the field, as ITK has it.
        """
        normalized = self.normalized[part]
        normalized = normalized.view(*[1] * self.grid.ndim, -1, self.grid.ndim)
        values = sample_normalized(vectors, normalized, padding="border").view(3, -1)
        return (values * self.within[part]).T


def transform_points(steps: Sequence[Step], points: Tensor) -> Tensor:
    """Transform world points (N, 3), RAS mm, by `steps`, first applied first, on the points' device."""
    parts = next(transform_points_each([steps], points))
    return torch.cat([part.T for part in parts], dim=1).T


def transform_points_each(transforms: Iterable[Sequence[Step]], points: Tensor) -> Iterator[Iterator[Tensor]]:
    """Transform the same points by each of several transforms, one at a time.

    Where transforms begin with fields on the same grid, as those from a template to its subjects, the points
    are located in it once.

    Args:
        transforms: Lists of steps, first applied first.
        points: World points (N, 3), RAS mm.

    Returns:
        For each transform the transformed points in consecutive parts (n, 3), which are small enough to be
        worked on in a CPU's cache; on the points' device.
    """
    located: _LocatedPoints | None = None
    for steps in transforms:
        if not (steps and isinstance(steps[0], DisplacementField)):
            yield _transform_parts(steps, points)
            continue
        if located is None or not located.fits(steps[0].grid):
            located = _LocatedPoints(steps[0].grid, points)
        yield _transform_parts(steps, points, located)


def _transform_parts(
    steps: Sequence[Step], points: Tensor, located: _LocatedPoints | None = None
) -> Iterator[Tensor]:
    """Transform points (N, 3), which may have been `located` in the grid of the first step, in parts."""
    # An affine, as far as it isn't the identity, before each field and at the end.
    stages: list[tuple[Tensor | None, Grid, Tensor]] = []
    matrix = np.eye(4)
    for step in steps:
        if isinstance(step, DisplacementField):
            stages.append((_on_device(matrix, points), step.grid, to_tensor(step.grid, step.vectors, points)))
            matrix = np.eye(4)
        else:
            matrix = step @ matrix
    last, count = _on_device(matrix, points), points_at_once(points.device)
    for start in range(0, max(len(points), 1), count):
        part = slice(start, start + count)
        moved = points[part]
        for index, (affine, grid, vectors) in enumerate(stages):
            moved = moved if affine is None else apply_affine(affine, moved)
            if index == 0 and located is not None:
                displacements = located.displacements(vectors, part)
            else:
                displacements = _LocatedPoints(grid, moved).displacements(vectors)
            moved = moved + displacements
        yield moved if last is None else apply_affine(last, moved)


def _on_device(matrix: Array, points: Tensor) -> Tensor | None:
    """A (4, 4) matrix on the device of points; None for the identity."""
    if np.array_equal(matrix, np.eye(4)):
        return None
    return torch.as_tensor(matrix, dtype=points.dtype, device=points.device)


def world_points(grid: Grid, device: torch.device = CPU) -> Tensor:
    """Compute the world points (N, 3), RAS mm, of a grid's voxels, in double precision, on a device."""
    index = coordinates(grid.shape, torch.zeros((), dtype=torch.float64, device=device))
    return apply_affine(grid.affine, index[0].flatten(1).T)


def to_voxels(points: Tensor, moving: Grid, shape: Sequence[int] | None = None) -> Tensor:
    """Convert world points (N, 3) to voxel coordinates (1, d, *shape) in `moving`, float32.

    Args:
        points: World points, RAS mm.
        moving: The grid that is to be sampled.
        shape: The spatial shape of the points, of N voxels; None: a line of them, (1, N) or (1, 1, N).
    """
    return arrange(apply_affine(np.linalg.inv(moving.affine), points), moving, shape)


def arrange(voxels: Tensor, moving: Grid, shape: Sequence[int] | None = None) -> Tensor:
    """Arrange voxel coordinates (N, 3) in `moving` for sampling: (1, d, *shape), float32, see `to_voxels`."""
    shape = [1, 1, len(voxels)][-moving.ndim :] if shape is None else shape
    return torch.stack([voxels[:, axis].float() for axis in moving.axes]).view(1, moving.ndim, *shape)


def resampling_coordinates(
    moving: Grid, steps: Sequence[Step], fixed: Grid, device: torch.device = CPU
) -> Tensor:
    """Map the voxels of `fixed` by `steps` to voxel coordinates (1, d, *fixed.tensor_shape) in `moving`."""
    return to_voxels(transform_points(steps, world_points(fixed, device)), moving, fixed.tensor_shape)


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
    parts = next(transform_points_each([steps], world_points(fixed, image.device)))
    values = []
    for points in (to_voxels(part, moving) for part in parts):
        within = inside(points[0].movedim(0, -1), moving.tensor_shape)
        values.append(sample(image, points, mode, "border") * within)
    return torch.cat(values, dim=-1).view(1, image.shape[1], *fixed.tensor_shape)


def resample_labels(
    labels: Array, moving: Grid, steps: Sequence[Step], fixed: Grid, device: torch.device = CPU
) -> Tensor:
    """Resample an integer label map (X, Y, Z) from `moving` to `fixed` on a device, as `LabelSampler` does:
    (*fixed.tensor_shape)."""
    sampler = LabelSampler(torch.from_numpy(moving.squeeze(labels)).to(device))
    parts = next(transform_points_each([steps], world_points(fixed, device)))
    found = [sampler(to_voxels(part, moving)).flatten() for part in parts]
    return torch.cat(found).view(fixed.tensor_shape)


def displacement_to_field(displacement: Tensor, grid: Grid) -> DisplacementField:
    """Convert a displacement (d, *grid.tensor_shape), voxels of `grid`, to a field in mm."""
    flat = displacement.detach().flatten(1).double()
    # The world vector of a voxel along each tensor axis.
    axes = torch.as_tensor(grid.affine[:3, list(grid.axes)], device=flat.device)
    vectors = (axes @ flat).float().T.reshape(*grid.shape, 3)
    return DisplacementField(grid, vectors.cpu().numpy())
