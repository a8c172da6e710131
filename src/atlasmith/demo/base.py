"""The base of a demo cohort: what all its subjects are made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from atlasmith.core.grid import Array, Grid
from atlasmith.demo.scanner import Scanner
from atlasmith.demo.warping import sample_linear, world_positions

# In voxels of the base, as all lengths of the generator: so they suit a mouse as well as an abdomen.
FIELD_SPACING = 4.0  # of the grid of velocities and displacements
FIELD_MARGIN = 24.0  # around the base, over which velocities fall to zero
BODY_SPACING = 4.0  # between the points of the body


@dataclass(frozen=True)
class Source:
    """What a base is made of.

    Args:
        template: Its name in file names.
        text: What it is, as in "subjects simulated from ...".
        credit: What to acknowledge; None where all of it was made here.
        license: Of the cohort.
        doi: Of the source.
    """

    template: str
    text: str
    license: str
    credit: str | None = None
    doi: str | None = None


@dataclass(frozen=True, eq=False)
class Base:
    """The body that all subjects are made from.

    Image and fractions are smoothed as larger voxels would be, so that sampling them doesn't alias.

    Args:
        source: What it is made of.
        scanner: What its images are made by.
        grid: Around the body, with voxels of one size, the `unit` of the generator's lengths.
        image: (X, Y, Z), in the scanner's units.
        labels: (X, Y, Z), see `names`.
        soft_labels: (L + 1, X, Y, Z), fractions in 1/255 of each label and, last, of the region to which the
            random warps are scaled: the brain, or all of a trunk.
        names: Of the labels 1 to L.
        body: Points (N, 3) of the body, RAS mm, which the field of view holds.
        field_grid: The grid of velocities, around the region.
        age_velocity: (X, Y, Z, 3) on `field_grid`, RAS mm for a standard deviation of age; None: the body is
            the same at all ages.
        shifts: (M, X, Y, Z, 3) likewise, largest shifts of organs, of which each subject has a share from -1
            to 1.
        cut: Shares of the body's height by which the field of view may end above its lower end and below its
            upper one.
    """

    source: Source
    scanner: Scanner
    grid: Grid
    image: Array
    labels: Array
    soft_labels: Array
    names: Mapping[int, str]
    body: Array
    field_grid: Grid
    age_velocity: Array | None = None
    shifts: Array | None = None
    cut: tuple[float, float] = (0.0, 0.0)

    @property
    def unit(self) -> float:
        """The size of the base's voxels, mm."""
        return self.grid.spacing[0]

    def region_fraction(self, points: Array) -> Array:
        """Interpolate the fraction of the region, 0 to 255, at world points (N, 3)."""
        return sample_linear(self.soft_labels[-1], self.grid, points)

    def scaled(self, factor: float, source: Source) -> Base:
        """Return the body in another size: the same voxels, `factor` times as large."""
        scale = np.diag([factor] * 3 + [1.0])
        return replace(
            self,
            source=source,
            grid=Grid(self.grid.shape, scale @ self.grid.affine),
            body=factor * self.body,
            field_grid=Grid(self.field_grid.shape, scale @ self.field_grid.affine),
            age_velocity=None if self.age_velocity is None else factor * self.age_velocity,
            shifts=None if self.shifts is None else factor * self.shifts,
        )


def soften(masks: Sequence[Array], sigma: float) -> Array:
    """Smooth boolean masks (X, Y, Z) by a Gaussian of `sigma` voxels, to fractions (M, X, Y, Z) in 1/255."""
    fractions = [ndimage.gaussian_filter(mask.astype(np.float32), sigma) for mask in masks]
    return np.stack([np.rint(255 * fraction).astype(np.uint8) for fraction in fractions])


def body_points(grid: Grid, fraction: Array) -> Array:
    """List points (N, 3), RAS mm, at which more than half of a voxel, in 1/255, is of the body (X, Y, Z)."""
    points = world_positions(grid.resampled(BODY_SPACING * grid.spacing[0]))
    return points[sample_linear(fraction, grid, points) > 127.5]


def field_grid_around(grid: Grid) -> Grid:
    """Make the grid of velocities of a base on `grid`."""
    size = FIELD_SPACING * grid.spacing[0]
    length = np.ceil((np.array(grid.shape) + 2 * FIELD_MARGIN) / FIELD_SPACING).astype(int) + 1
    affine = np.diag([size] * 3 + [1.0])
    affine[:3, 3] = grid.center - (length - 1) / 2 * size
    return Grid((int(length[0]), int(length[1]), int(length[2])), affine)


def border_taper(grid: Grid) -> Array:
    """Compute weights (X, Y, Z): one inside, falling smoothly to zero over the outer `FIELD_MARGIN`."""
    weight = np.ones(grid.shape)
    for axis, n in enumerate(grid.shape):
        edge = np.minimum(np.arange(n), np.arange(n)[::-1]) * FIELD_SPACING / FIELD_MARGIN
        ramp = np.sin(np.pi / 2 * np.clip(edge, 0, 1)) ** 2
        weight *= ramp.reshape([-1 if a == axis else 1 for a in range(3)])
    return weight


def render(base: Base, points: Array) -> tuple[Array, Array]:
    """Sample the base at points of its space.

    Args:
        base: The body.
        points: (N, 3), RAS mm. Beyond the base's grid there is nothing around a stripped brain; other bodies
            continue there as they are at its border, as a neck does.

    Returns:
        Image (N,), in the scanner's units, and labels (N,), by linear interpolation of each label and argmax.
    """
    mode = "constant" if base.scanner.stripped else "nearest"
    fractions = np.stack([sample_linear(each, base.grid, points, mode) for each in base.soft_labels])
    background = np.maximum(255 - fractions[:-1].sum(axis=0), 0)
    labels = np.concatenate([background[None], fractions[:-1]]).argmax(axis=0)
    region = fractions[-1] > 127.5
    image = sample_linear(base.image, base.grid, points, mode)
    return image * region if base.scanner.stripped else image, (labels * region).astype(np.uint8)
