"""Where voxels lie in the world.

World coordinates are millimetres in RAS+. Every grid has three axes; a 2-D image is a grid with one axis
of length 1, and `Grid.axes` names the axes that tensors keep.
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

    shape: (X, Y, Z) in voxels. affine: (4, 4), voxel index to world (RAS, mm).
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
        """The axes that tensors keep: all three in 3-D, the two longer than one voxel in 2-D."""
        singleton = [axis for axis in range(3) if self.shape[axis] == 1]
        return tuple(axis for axis in range(3) if axis not in singleton[-1:])

    @property
    def ndim(self) -> int:
        return len(self.axes)

    @property
    def tensor_shape(self) -> tuple[int, ...]:
        """Sizes of `axes`, the spatial shape of tensors on this grid."""
        return tuple(self.shape[axis] for axis in self.axes)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel sizes of the three axes, mm."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    @property
    def tensor_spacing(self) -> tuple[float, ...]:
        """Voxel sizes of `axes`, mm."""
        return tuple(self.spacing[axis] for axis in self.axes)

    @property
    def voxel_volume(self) -> float:
        """mm3."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    @property
    def center(self) -> Array:
        """World position (3,) of the grid's middle."""
        middle = (np.array(self.shape) - 1) / 2
        return self.affine[:3, :3] @ middle + self.affine[:3, 3]

    def coarser_spacing(self, shape: Sequence[int]) -> tuple[float, ...]:
        """Voxel sizes of `axes`, mm, of a grid of `shape` (d,) with the same corner voxels."""
        sizes = zip(self.tensor_shape, self.tensor_spacing, shape, strict=True)
        return tuple(spacing * (n - 1) / max(coarser - 1, 1) for n, spacing, coarser in sizes)

    def same_as(self, other: Grid, tolerance: float = 1e-3) -> bool:
        """Whether both grids put each voxel at the same place, within `tolerance` of a voxel's size."""
        if self.shape != other.shape:
            return False
        corners = np.array([[i, j, k, 1] for i in (0, 1) for j in (0, 1) for k in (0, 1)], dtype=float)
        corners[:, :3] *= np.array(self.shape) - 1
        gap = corners @ (self.affine - other.affine).T
        return bool(np.abs(gap).max() <= tolerance * min(self.spacing))

    def cropped(self, box: Sequence[slice]) -> Grid:
        """The part of this grid inside `box`: three slices with start and stop."""
        start = np.array([s.start or 0 for s in box], dtype=float)
        shape = [len(range(n)[s]) for n, s in zip(self.shape, box, strict=True)]
        affine = self.affine.copy()
        affine[:3, 3] += affine[:3, :3] @ start
        return Grid((shape[0], shape[1], shape[2]), affine)

    def resampled(self, spacing: float) -> Grid:
        """The same field of view in voxels of about `spacing` mm; axes that are coarser already stay."""
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
        """(X, Y, Z, ...) to (*tensor_shape, ...)."""
        return data.reshape(*self.tensor_shape, *data.shape[3:])

    def unsqueeze(self, data: Array) -> Array:
        """(*tensor_shape, ...) to (X, Y, Z, ...)."""
        return data.reshape(*self.shape, *data.shape[self.ndim :])

    def to_dict(self) -> dict[str, Any]:
        return {"shape": list(self.shape), "affine": self.affine.tolist()}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Grid:
        return cls(tuple(value["shape"]), np.array(value["affine"]))


@dataclass(frozen=True, eq=False)
class DisplacementField:
    """A pull-back displacement: the point p of `grid`'s space goes to p + vectors(p).

    vectors: (X, Y, Z, 3), world millimetres (RAS), on `grid`; linear between voxels, zero outside.
    """

    grid: Grid
    vectors: Array


# A pull-back from one world to another is a list of steps, applied to a point from first to last.
# A step is an affine matrix (4, 4) or a displacement field, both in RAS millimetres.
Step = Array | DisplacementField
