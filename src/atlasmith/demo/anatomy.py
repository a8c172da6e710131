"""The brain of the demo, with labels, and its change with age.

The brain is MNI152 (nlin 2009a symmetric, Fonov et al. 2011, doi:10.1016/j.neuroimage.2010.07.033), which
nilearn bundles.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from scipy import ndimage

from atlasmith.core.errors import AtlasmithError
from atlasmith.core.grid import Array, Grid
from atlasmith.demo.base import (
    FIELD_SPACING,
    Base,
    Source,
    body_points,
    border_taper,
    field_grid_around,
    soften,
)
from atlasmith.demo.scanner import MR_STRIPPED
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

VENTRICLE_GROWTH = 0.33  # divergence in the ventricles for a standard deviation of age; blurring reduces it
CORTEX_SHRINKAGE = 0.05

DOI = "doi:10.1016/j.neuroimage.2010.07.033"
BRAIN = Source(
    template="MNI152NLin2009aSym",
    text="one real brain",
    license="That of MNI152: Copyright (C) 1993-2004 Louis Collins, McConnell Brain Imaging Centre, Montreal "
    "Neurological Institute, McGill University. Permission to use, copy, modify, and distribute this "
    "software and its documentation for any purpose and without fee is hereby granted, provided that the "
    "above copyright notice appear in all copies.",
    credit=f"MNI152 nonlinear symmetric 2009a, Fonov et al. 2011, {DOI}",
    doi=DOI,
)


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


@lru_cache(maxsize=2)
def load_brain(spacing: float) -> Base:
    """Load the brain, on a grid of 1 mm.

    Args:
        spacing: Voxel size of the images that are made from it, about, in voxels of this grid.

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

    sigma = spacing / 3  # the blur of such a voxel
    soft = soften([*(labels == label for label in LABELS), inside], sigma)

    # A mean over the brain alone, so that the background doesn't darken its edge.
    blurred = ndimage.gaussian_filter(image, sigma)
    coverage = ndimage.gaussian_filter(inside.astype(np.float32), sigma)
    image = np.where(coverage > 0.05, blurred / np.maximum(coverage, 0.05), 0).astype(np.float32)

    field_grid = field_grid_around(grid)
    velocity = _age_velocity(grid, labels, inside, field_grid).astype(np.float32)
    body = body_points(grid, soft[-1])
    return Base(BRAIN, MR_STRIPPED, grid, image, labels, soft, LABELS, body, field_grid, velocity)


def planted_volumes(base: Base, ages: Sequence[float]) -> dict[str, list[float]]:
    """Compute the volumes of ventricles and cortex of the base at each age, without random warp and pose.

    Args:
        base: The brain, or another body.
        ages: In years.

    Returns:
        ml for each age, by `ventricle_ml` and `cortex_ml`; nothing for a body that age doesn't change.
    """
    if base.age_velocity is None:
        return {}
    (occupied,) = ndimage.find_objects((base.soft_labels[-1] > 0).astype(np.int8))
    brain = base.grid.cropped([slice(max(s.start - 4, 0), s.stop + 4) for s in occupied])
    grid = brain.resampled(2.0 * base.unit)
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
