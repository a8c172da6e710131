"""Sampling grids: the positions of voxels in world coordinates.

World coordinates are millimeters in RAS+. Every grid has three axes; a 2-D image is a grid with one axis of
length 1, and `Grid.axes` names the axes that tensors keep.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Grid:
    """A sampling grid.

    Args:
        shape: (X, Y, Z), voxels.
        affine: (4, 4), from voxel indices to world coordinates (RAS, mm).

    Raises:
        ValueError: If there aren't three sizes and a 4 x 4 affine.

    Example:
        >>> grid = Grid((64, 48, 1), np.diag([2.0, 2.0, 3.0, 1.0]))
        >>> grid.ndim, grid.tensor_shape, grid.tensor_spacing
        (2, (64, 48), (2.0, 2.0))
    """

    shape: tuple[int, int, int]
    affine: Array

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
        object.__setattr__(self, "affine", np.asarray(self.affine, dtype=np.float64))
        if len(self.shape) != 3 or self.affine.shape != (4, 4):
            raise ValueError(
                f"a grid needs 3 sizes and a 4 x 4 affine, not {self.shape}, {self.affine.shape}"
            )

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes that tensors keep: all three in 3-D, two in 2-D, without one of a single voxel."""
        singleton = [axis for axis in range(3) if self.shape[axis] == 1]
        return tuple(axis for axis in range(3) if axis not in singleton[-1:])

    @property
    def ndim(self) -> int:
        """The number of `axes`, 2 or 3."""
        return len(self.axes)

    @property
    def tensor_shape(self) -> tuple[int, ...]:
        """Sizes of `axes`, the spatial shape of tensors on this grid."""
        return tuple(self.shape[axis] for axis in self.axes)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size along the three axes, mm."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    @property
    def tensor_spacing(self) -> tuple[float, ...]:
        """Voxel size along `axes`, mm."""
        return tuple(self.spacing[axis] for axis in self.axes)

    @property
    def voxel_volume(self) -> float:
        """Volume of a voxel, mm3."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    @property
    def center(self) -> Array:
        """World coordinates (3) of the grid's center."""
        middle = (np.array(self.shape) - 1) / 2
        return self.affine[:3, :3] @ middle + self.affine[:3, 3]

    def coarser_spacing(self, shape: Sequence[int]) -> tuple[float, ...]:
        """Return the voxel size (d), mm, of a grid of `shape` (d) with the same corner voxels."""
        sizes = zip(self.tensor_shape, self.tensor_spacing, shape, strict=True)
        return tuple(spacing * (n - 1) / max(coarser - 1, 1) for n, spacing, coarser in sizes)

    def coarser(self, spacing: float) -> Grid:
        """Return a coarser grid with the same corner voxels, for networks, which halve it several times.

        Args:
            spacing: Voxel size, mm; axes of such or larger voxels keep them. Long axes get a multiple of 8
                voxels, whose size is that within some per cent.

        Example:
            >>> Grid((160, 192, 1), np.eye(4)).coarser(2.0).shape
            (80, 96, 1)
        """

        def size(n: int, own: float) -> int:
            count = n * own / spacing
            multiple = 8 if count >= 64 else 2
            return n if own > 0.999 * spacing else min(n, max(2, multiple * round(count / multiple)))

        return self.resized([*map(size, self.tensor_shape, self.tensor_spacing)])

    def resized(self, shape: Sequence[int]) -> Grid:
        """Return the grid of another `tensor_shape` (d) with the same corner voxels.

        Example:
            >>> Grid((5, 1, 9), np.eye(4)).resized((3, 5)).spacing
            (2.0, 1.0, 2.0)
        """
        sizes, scale = [1, 1, 1], [1.0, 1.0, 1.0, 1.0]
        for axis, size in zip(self.axes, shape, strict=True):
            sizes[axis], scale[axis] = size, (self.shape[axis] - 1) / max(size - 1, 1)
        return Grid((sizes[0], sizes[1], sizes[2]), self.affine @ np.diag(scale))

    def same_as(self, other: Grid, tolerance: float = 1e-3) -> bool:
        """Return whether the voxels of both grids have the same positions.

        Args:
            other: Another grid.
            tolerance: Largest difference at any corner, as a fraction of the voxel size.
        """
        if self.shape != other.shape:
            return False
        corners = np.array([[i, j, k, 1] for i in (0, 1) for j in (0, 1) for k in (0, 1)], dtype=float)
        corners[:, :3] *= np.array(self.shape) - 1
        gap = corners @ (self.affine - other.affine).T
        return bool(np.abs(gap).max() <= tolerance * min(self.spacing))

    def cropped(self, box: Sequence[slice]) -> Grid:
        """Return the part of this grid inside `box`, three slices."""
        start = np.array([s.start or 0 for s in box], dtype=float)
        shape = [len(range(n)[s]) for n, s in zip(self.shape, box, strict=True)]
        affine = self.affine.copy()
        affine[:3, 3] += affine[:3, :3] @ start
        return Grid((shape[0], shape[1], shape[2]), affine)

    def resampled(self, spacing: float | None) -> Grid:
        """Return a coarser grid of the same field of view.

        Args:
            spacing: Voxel size, mm, rounded so that the field of view is a whole number of voxels; axes with
                larger voxels keep them. None: the grid as it is.
        """
        if spacing is None:
            return self
        sizes = np.array(self.shape)
        old = np.array(self.spacing)
        new = np.where(sizes == 1, 1, np.maximum(1, np.round(sizes * old / np.maximum(spacing, old)))).astype(
            int
        )
        scale = sizes / new
        affine = self.affine.copy()
        affine[:3, :3] *= scale
        affine[:3, 3] += self.affine[:3, :3] @ ((scale - 1) / 2)
        return Grid((int(new[0]), int(new[1]), int(new[2])), affine)

    def strided(self, step: int) -> Grid:
        """Keep every `step`-th voxel of each axis, from the first on."""
        scale = np.diag([step, step, step, 1.0])
        x, y, z = (-(-n // step) for n in self.shape)
        return Grid((x, y, z), self.affine @ scale)

    def squeeze(self, data: Array) -> Array:
        """Reshape (X, Y, Z, ...) to (*tensor_shape, ...)."""
        return data.reshape(*self.tensor_shape, *data.shape[3:])

    def unsqueeze(self, data: Array) -> Array:
        """Reshape (*tensor_shape, ...) to (X, Y, Z, ...)."""
        return data.reshape(*self.shape, *data.shape[self.ndim :])

    def to_dict(self) -> dict[str, Any]:
        """Return the grid as values that JSON can store."""
        return {"shape": list(self.shape), "affine": self.affine.tolist()}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Grid:
        """Build the grid from the values of `to_dict`."""
        return cls(tuple(value["shape"]), np.array(value["affine"]))


@dataclass(frozen=True, eq=False)
class DisplacementField:
    """A displacement field in world coordinates, a pull-back: the point p is mapped to p + vectors(p).

    Args:
        grid: The grid of the vectors.
        vectors: (X, Y, Z, 3), mm (RAS); linear between voxels, zero outside.
    """

    grid: Grid
    vectors: Array


# A transform from one world to another is a list of steps, which map a point from first to last. A step is an
# affine matrix (4, 4) or a displacement field, both in RAS millimeters.
Step = Array | DisplacementField
