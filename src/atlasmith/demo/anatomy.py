"""The base of the demo: a brain with labels, and its change with age.

The brain is MNI152 (nlin 2009a symmetric, Fonov et al. 2011, doi:10.1016/j.neuroimage.2010.07.033), which
nilearn bundles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import ndimage

from atlasmith.core.errors import AtlasmithError
from atlasmith.core.grid import Array, Grid
from atlasmith.demo.warping import displace, exponentiate, sample_linear, world_positions

LABELS = {
    1: "Left-Cerebral-Cortex",
    2: "Right-Cerebral-Cortex",
    3: "Left-Cerebral-White-Matter",
    4: "Right-Cerebral-White-Matter",
    5: "Left-Lateral-Ventricle",
    6: "Right-Lateral-Ventricle",
    7: "Left-Deep-Grey-Matter",
    8: "Right-Deep-Grey-Matter",
    9: "Cerebellum-and-Brainstem",
}
CORTEX, VENTRICLES = (1, 2), (5, 6)
AGE_MEAN, AGE_SD = 55.0, 20.0

FIELD_SPACING = 4.0  # mm, of the grid of velocities and displacements
FIELD_MARGIN = 24.0  # mm around the brain, over which velocities fall to zero
VENTRICLE_GROWTH = 0.33  # divergence in the ventricles for a standard deviation of age; blurring reduces it
CORTEX_SHRINKAGE = 0.05


@dataclass(frozen=True, eq=False)
class Base:
    """The brain that all subjects are made from.

    Image and fractions are smoothed as larger voxels would be, so that sampling them doesn't alias.

    Args:
        grid: 1 mm, around the brain.
        image: (X, Y, Z), 0 to 1.
        labels: (X, Y, Z), see `LABELS`.
        soft_labels: (L + 1, X, Y, Z), fractions in 1/255 of each label and, last, of the brain.
        field_grid: The grid of velocities.
        age_velocity: (X, Y, Z, 3) on `field_grid`, RAS mm for a standard deviation of age.
    """

    grid: Grid
    image: Array
    labels: Array
    soft_labels: Array
    field_grid: Grid
    age_velocity: Array

    def brain_fraction(self, points: Array) -> Array:
        """Interpolate the fraction of the brain, 0 to 255, at world points (N, 3)."""
        return sample_linear(self.soft_labels[-1], self.grid, points)


def standardize_age(age: float) -> float:
    """Express an age in standard deviations from the mean."""
    return (age - AGE_MEAN) / AGE_SD


def _base_labels(grid: Grid, image: Array, gray: Array, white: Array, brain: Array) -> Array:
    """Labels (X, Y, Z) from tissue maps at 1 mm; the regions are set by hand in MNI coordinates."""
    x, y, z = np.meshgrid(
        *(np.arange(n) + start for n, start in zip(grid.shape, grid.affine[:3, 3], strict=True)),
        indexing="ij",
        sparse=True,
    )
    csf = np.clip(brain - gray - white, 0, 1)

    # Lateral ventricles: deep fluid, without the cisterns behind the thalamus and other small pools.
    deep = ndimage.distance_transform_edt(brain) > 18
    ventricles = (csf > 0.5) & deep & (np.abs(x) < 40) & (y > -50) & (y < 40) & (z > -12) & (z < 32)
    ventricles &= ~((y < -28) & (np.abs(x) < 10) & (z < 14) | (y < -22) & (np.abs(x) < 16) & (z < 4))
    pools, _ = ndimage.label(ventricles)
    ventricles &= np.bincount(pools.ravel())[pools] > 300

    # Cerebellum and brainstem: a watershed at 2 mm along the fluid between them and the cerebrum.
    half = (slice(None, None, 2),) * 3
    barrier = (255 * np.clip(1.5 * csf + 0.5 * (1 - image), 0, 1)).astype(np.uint8)[half]
    above = (z > 8) | (y > -30) & (np.abs(x) > 22) | (y > -8) & (z > -30) | (y < -95)
    above = above | (z > -2) & (y > -45) & (y < -10)
    below = (z < -24) & (y < -42) & (y > -85) & (np.abs(x) < 40)
    below = below | (z < -14) & (np.abs(x) < 9) & (y < -20) & (y > -70)
    markers = np.where(below, 2, np.where(above, 1, 0)).astype(np.int16)[half]
    basin = ndimage.watershed_ift(barrier, markers) == 2
    hindbrain = basin.repeat(2, 0).repeat(2, 1).repeat(2, 2)[tuple(slice(n) for n in grid.shape)]

    deep_gray = (x / 33) ** 2 + ((y + 4) / 31) ** 2 + ((z - 5) / 20) ** 2 < 1
    deep_gray &= (gray > 0.4) & (csf < 0.5)
    # Where white matter borders on a ventricle, the mixture in the maps resembles a rim of cortex.
    rim = ndimage.binary_dilation(ventricles, iterations=4)
    cortex = (gray > white) & ~rim
    left = np.where(cortex, CORTEX[0], 3)
    left = np.where(deep_gray, 7, left)
    labels = left + (x > 0)
    labels = np.where(hindbrain, 9, labels)
    labels = np.where(brain & (csf < np.maximum(gray, white)), labels, 0)
    return np.where(ventricles, VENTRICLES[0] + (x > 0), labels).astype(np.uint8)


def _age_velocity(grid: Grid, labels: Array, brain: Array, field_grid: Grid) -> Array:
    """A curl-free velocity (X, Y, Z, 3), mm, that enlarges ventricles and thins cortex, but not the brain.

    Its divergence is given: positive in the ventricles, negative in the cortex, and in the fluid around
    the brain such that the sum is zero. The velocity is the gradient of the solution of Poisson's equation.
    """
    ventricles, cortex = np.isin(labels, VENTRICLES), np.isin(labels, CORTEX)
    fluid = brain & (labels == 0)
    growth = VENTRICLE_GROWTH * ventricles - CORTEX_SHRINKAGE * cortex
    growth = growth - fluid * (growth.sum() / fluid.sum())
    points = world_positions(field_grid)
    smooth = ndimage.gaussian_filter(growth.astype(np.float32), FIELD_SPACING / 3)
    divergence = sample_linear(smooth, grid, points).reshape(field_grid.shape)
    spectrum = np.fft.fftn(divergence - divergence.mean())
    waves = [2 * np.pi * np.fft.fftfreq(n, FIELD_SPACING) for n in field_grid.shape]
    k = np.stack(np.meshgrid(*waves, indexing="ij"))
    square = (k**2).sum(axis=0)
    square[0, 0, 0] = 1
    velocity = np.fft.ifftn(-1j * k * spectrum / square, axes=(1, 2, 3)).real
    return np.moveaxis(velocity, 0, -1) * border_taper(field_grid)[..., None]


def border_taper(grid: Grid) -> Array:
    """Compute weights (X, Y, Z): one inside, falling smoothly to zero over the outer `FIELD_MARGIN`."""
    weight = np.ones(grid.shape)
    for axis, (n, size) in enumerate(zip(grid.shape, grid.spacing, strict=True)):
        edge = np.minimum(np.arange(n), np.arange(n)[::-1]) * size / FIELD_MARGIN
        ramp = np.sin(np.pi / 2 * np.clip(edge, 0, 1)) ** 2
        weight *= ramp.reshape([-1 if a == axis else 1 for a in range(3)])
    return weight


@lru_cache(maxsize=2)
def load_base(spacing: float) -> Base:
    """Load the base for images of about `spacing` mm.

    Raises:
        AtlasmithError: If nilearn isn't installed.
    """
    try:
        from nilearn import datasets
    except ImportError:
        raise AtlasmithError(
            "the demo needs nilearn. Install it with `pip install 'atlasmith[demo]'`."
        ) from None

    names = ("template", "gm_template", "wm_template", "brain_mask")
    maps = [getattr(datasets, f"load_mni152_{name}")(resolution=1) for name in names]
    full = Grid(maps[0].shape, maps[0].affine)
    image, gray, white, brain = (np.asarray(each.dataobj, dtype=np.float32) for each in maps)
    occupied = ndimage.find_objects((brain > 0.5).astype(np.int8))[0]
    box = tuple(slice(max(s.start - 4, 0), s.stop + 4) for s in occupied)
    grid = full.cropped([slice(s.start, min(s.stop, n)) for s, n in zip(box, full.shape, strict=True)])
    image, gray, white, inside = image[box], gray[box], white[box], brain[box] > 0.5
    image = image * inside
    labels = _base_labels(grid, image, gray, white, inside)

    sigma = spacing / 3  # mm: the blur of such a voxel
    masks = [*(labels == label for label in LABELS), inside]
    soft = [
        np.rint(255 * ndimage.gaussian_filter(m.astype(np.float32), sigma)).astype(np.uint8) for m in masks
    ]

    # A mean over the brain alone, so that the background doesn't darken its edge.
    blurred = ndimage.gaussian_filter(image, sigma)
    coverage = ndimage.gaussian_filter(inside.astype(np.float32), sigma)
    image = np.where(coverage > 0.05, blurred / np.maximum(coverage, 0.05), 0).astype(np.float32)

    length = np.ceil((np.array(grid.shape) + 2 * FIELD_MARGIN) / FIELD_SPACING).astype(int) + 1
    affine = np.diag([FIELD_SPACING] * 3 + [1.0])
    affine[:3, 3] = grid.center - (length - 1) / 2 * FIELD_SPACING
    field_grid = Grid((int(length[0]), int(length[1]), int(length[2])), affine)
    velocity = _age_velocity(grid, labels, inside, field_grid)
    return Base(grid, image, labels, np.stack(soft), field_grid, velocity.astype(np.float32))


def render(base: Base, points: Array) -> tuple[Array, Array]:
    """Sample the base at points of its space.

    Args:
        base: The brain.
        points: (N, 3), mm.

    Returns:
        Image (N,), 0 to 1, and labels (N,), by linear interpolation of each label and argmax.
    """
    fractions = np.stack([sample_linear(each, base.grid, points) for each in base.soft_labels])
    background = np.maximum(255 - fractions[:-1].sum(axis=0), 0)
    labels = np.concatenate([background[None], fractions[:-1]]).argmax(axis=0)
    brain = fractions[-1] > 127.5
    return sample_linear(base.image, base.grid, points) * brain, (labels * brain).astype(np.uint8)


def planted_volumes(base: Base, ages: Sequence[float]) -> dict[str, list[float]]:
    """Compute the volumes of ventricles and cortex of the base at each age, without random warp and pose.

    Args:
        base: The brain.
        ages: In years.

    Returns:
        ml for each age, by `ventricle_ml` and `cortex_ml`.
    """
    grid = base.grid.resampled(2.0)
    points = world_positions(grid)
    milliliters = float(np.prod(grid.spacing)) / 255 / 1000
    volumes: dict[str, list[float]] = {"ventricle_ml": [], "cortex_ml": []}
    for age in ages:
        pull = exponentiate(-standardize_age(age) * base.age_velocity, base.field_grid)
        moved = displace(points, pull, base.field_grid)
        for name, labels in (("ventricle_ml", VENTRICLES), ("cortex_ml", CORTEX)):
            total = sum(float(sample_linear(base.soft_labels[i - 1], base.grid, moved).sum()) for i in labels)
            volumes[name].append(total * milliliters)
    return volumes
