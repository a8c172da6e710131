"""The head of the demo: the brain in a made skull, with face and neck, as a scan shows it unstripped."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy import ndimage

from atlasmith.core.grid import Array
from atlasmith.demo.anatomy import BRAIN, load_brain
from atlasmith.demo.base import Base, body_points
from atlasmith.demo.scanner import MR
from atlasmith.demo.shapes import (
    Coordinates,
    coordinates,
    ellipsoid,
    grid_between,
    paint,
    smooth_noise,
    union,
)
from atlasmith.demo.warping import sample_linear, world_positions

HEAD = replace(BRAIN, text="one real brain in a made head")
START, STOP = (-100, -132, -168), (100, 120, 104)  # mm, of MNI space
STEP = 2  # mm, of the grid on which tissue is made
CUT = (0.25, 0.0)  # down to the neck, or up to the mouth

# T1-weighted intensities; white matter has 0.87, gray matter 0.65.
FLUID, BONE, MARROW, FAT, SKIN, MUSCLE, CORD, AIR = 0.22, 0.06, 0.5, 0.95, 0.6, 0.48, 0.75, 0.0
# mm from the brain.
FLUID_END, BONE_END, SCALP_END = 3.0, 10.0, 17.0


def load_head(spacing: float) -> Base:
    """Load the brain in a head, on a grid of 1 mm. Labels and warps are the brain's.

    Args:
        spacing: As in `load_brain`.
    """
    brain = load_brain(spacing)
    grid = grid_between(START, STOP, 1)
    first = (brain.grid.affine[:3, 3] - START).astype(int)
    around = [(a, n - a - m) for a, n, m in zip(first, grid.shape, brain.grid.shape, strict=True)]

    coarse = make_tissue(brain)
    tissue = ndimage.zoom(coarse, np.divide(grid.shape, coarse.shape), order=1)
    fraction = np.pad(brain.soft_labels[-1], around).astype(np.float32) / 255
    image = ndimage.gaussian_filter(tissue, spacing / 3)
    image += fraction * (np.pad(brain.image, around) - image)
    return replace(
        brain,
        source=HEAD,
        scanner=MR,
        grid=grid,
        image=image,
        labels=np.pad(brain.labels, around),
        soft_labels=np.pad(brain.soft_labels, [(0, 0), *around]),
        body=body_points(grid, np.where(tissue > FLUID / 2, 255, 0).astype(np.uint8)),
        cut=CUT,
    )


def make_tissue(brain: Base) -> Array:
    """Make what surrounds the brain, (X, Y, Z) every `STEP` mm, with fluid in the place of the brain."""
    grid = grid_between(START, STOP, STEP)
    points = coordinates(grid)
    # The brain without its sulci, and the distance from it.
    inside = sample_linear(brain.soft_labels[-1], brain.grid, world_positions(grid)).reshape(grid.shape) / 255
    hull = (ndimage.gaussian_filter(inside, 6 / STEP) > 0.4) | (inside > 0.5)
    distance = ndimage.gaussian_filter(STEP * ndimage.distance_transform_edt(~hull).astype(np.float32), 1)

    tissue = np.zeros(grid.shape, dtype=np.float32)
    uneven = [smooth_noise(grid.shape, sigma / STEP, seed) for seed, sigma in enumerate((8, 12, 4))]
    _paint_soft_tissue(tissue, points, distance, uneven)
    _paint_bones(tissue, points, distance, uneven)
    _paint_cavities(tissue, points, uneven)
    paint(tissue, FLUID_END - distance + 0.7 * uneven[0], FLUID, STEP)
    # The spinal canal, which opens into the skull.
    x, y, z = points
    canal = ellipsoid((x, y), (0, -49 + z / 40), (9, 8))
    below = np.minimum(canal, -64 - z)
    paint(tissue, below, FLUID, STEP)
    paint(tissue, np.minimum(below - 3, -66 - z), CORD, STEP)
    return tissue


def _neck_axis(z: Array) -> Array:
    """The y (1, 1, Z), mm, of the middle of the neck."""
    return -36 + 0.06 * (z + 80)


def _paint_soft_tissue(tissue: Array, points: Coordinates, distance: Array, uneven: list[Array]) -> None:
    """Paint skin, fat and muscles of head, face and neck."""
    x, y, z = points
    neck = np.minimum(ellipsoid((x, y), (0, _neck_axis(z)), (56, 60), 2.3), -40 - z)
    face = ellipsoid(points, (0, 34, -66), (64, 62, 68), 2.4)
    nose = ellipsoid(points, (0, 94, -52), (13, 17, 21))
    ears = ellipsoid((np.abs(x), y, z), (86, -22, -42), (9, 15, 27))
    cranium = SCALP_END - distance + 1.2 * uneven[1]
    depth = union([cranium, face + 1.5 * uneven[1], neck + 1.5 * uneven[1], nose, ears], 3.0)
    paint(tissue, depth, SKIN, STEP)
    paint(tissue, depth - 2, FAT, STEP)
    # Fat is thin over the skull, and thicker in cheeks and nape; between muscles there is some, too.
    fat = 5 + 1.5 * uneven[0] + np.where(z < -50, 3, 0)
    strands = np.where(uneven[2] > 1.2, FAT, MUSCLE + 0.04 * uneven[2])
    paint(tissue, depth - fat, strands, STEP)


def _paint_bones(tissue: Array, points: Coordinates, distance: Array, uneven: list[Array]) -> None:
    """Paint skull, jaws and vertebrae: compact bone around marrow."""
    x, y, z = points
    middle, half = (FLUID_END + BONE_END) / 2, (BONE_END - FLUID_END) / 2
    skull = half + 0.8 * uneven[1] - np.abs(distance - middle)
    in_plane = ellipsoid((x, y), (0, 28), (50, 52), 2.2)
    jaws = np.minimum(6 - np.abs(in_plane), np.minimum(y - 15, 12 - np.abs(z + 110)))
    teeth = np.minimum(5 - np.abs(in_plane - 2), np.minimum(y - 30, 7 - np.abs(z + 86)))
    period = np.abs((z + 78) % 18 - 9)  # mm from the middle of a disc between two vertebrae
    column = np.minimum(ellipsoid((x, y), (0, -29 + z / 40), (13, 10)), np.minimum(period - 2, -78 - z))
    arches = np.minimum(6 - np.abs(ellipsoid((x, y), (0, -49 + z / 40), (16, 15))), -80 - z)
    spines = np.minimum(4 - np.abs(x), np.minimum(11 - np.abs(y + 76), period - 3)) - 100.0 * (z > -84)
    for bone in (skull, jaws, teeth, column, np.minimum(arches, period - 2), spines):
        paint(tissue, bone, BONE, STEP)
        paint(tissue, bone - 2.2, MARROW, STEP)


def _paint_cavities(tissue: Array, points: Coordinates, uneven: list[Array]) -> None:
    """Paint eyes and airways."""
    x, y, z = points
    side = np.abs(x)
    paint(tissue, ellipsoid((side, y, z), (31, 52, -36), (19, 26, 18)), FAT, STEP)
    eye = ellipsoid((side, y, z), (32, 70, -36), (13, 13, 13))
    paint(tissue, eye, SKIN, STEP)
    paint(tissue, eye - 2, FLUID, STEP)
    paint(tissue, ellipsoid((side, y, z), (32, 79, -36), (5, 3, 5)), MUSCLE, STEP)
    tongue = ellipsoid(points, (0, 38, -94), (27, 34, 20))
    paint(tissue, tongue, MUSCLE + 0.08 * uneven[2], STEP)
    nose = ellipsoid(points, (0, 62, -58), (14, 34, 20)) - 4 * (uneven[2] > 0.5)
    sinuses = ellipsoid((side, y, z), (32, 52, -66), (12, 15, 14))
    throat = np.minimum(ellipsoid((x, y), (0, -4 + (z + 70) / 14), (9, 7)), -62 - z)
    for cavity in (nose, sinuses, throat):
        paint(tissue, cavity, AIR, STEP)
