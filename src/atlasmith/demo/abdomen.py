"""The abdomen of the demo: a made trunk in Hounsfield units, whose organs move as with breathing.

x leads to the right, y to the front, z up; the origin is about the second lumbar vertebra.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from atlasmith.core.grid import Array, Grid
from atlasmith.demo.base import Base, Source, body_points, border_taper, field_grid_around, soften
from atlasmith.demo.scanner import AIR, CT
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

ABDOMEN = Source(
    template="DemoAbdomen",
    text="a made abdomen",
    license="CC0",
)
LABELS = {
    1: "Liver",
    2: "Spleen",
    3: "Left-Kidney",
    4: "Right-Kidney",
    5: "Stomach",
    6: "Aorta",
    7: "Vertebral-Column",
}
LIVER, SPLEEN, LEFT_KIDNEY, RIGHT_KIDNEY, STOMACH, AORTA, VERTEBRAE = LABELS
STEP = 2  # mm, the voxel size of the base
START, STOP = (-186, -144, -220), (186, 120, 200)  # mm
CUT = (0.2, 0.2)

# Hounsfield units, in the portal venous phase.
LUNG, FAT, FLUID, MUSCLE, BOWEL = -840.0, -100.0, 30.0, 55.0, 45.0
TISSUE = {LIVER: 100.0, SPLEEN: 110.0, LEFT_KIDNEY: 160.0, RIGHT_KIDNEY: 160.0, STOMACH: 35.0, AORTA: 150.0}
DISC, MARROW, BONE = 90.0, 220.0, 480.0
WALL = 30.0  # mm from the skin to the cavity

BREATHING = {
    LIVER: 17.0,
    SPLEEN: 15.0,
    LEFT_KIDNEY: 11.0,
    RIGHT_KIDNEY: 12.0,
    STOMACH: 15.0,
}  # mm up and down
OWN_SHIFT = np.array([3.0, 4.0, 6.0])  # mm, of each organ for itself
SHIFT_REACH = 12.0  # mm around an organ that move with it


def load_abdomen(spacing: float) -> Base:
    """Make the abdomen, on a grid of 2 mm.

    Args:
        spacing: Voxel size of the images that are made from it, about, in voxels of this grid.
    """
    grid = grid_between(START, STOP, STEP)
    image, labels, trunk = make_abdomen(grid)
    soft = soften([*(labels == label for label in LABELS), trunk], spacing / 3)
    field_grid = field_grid_around(grid)
    return Base(
        ABDOMEN,
        CT,
        grid,
        ndimage.gaussian_filter(image, spacing / 3),
        labels,
        soft,
        LABELS,
        body_points(grid, soft[-1]),
        field_grid,
        shifts=_organ_shifts(grid, labels, field_grid),
        cut=CUT,
    )


def _organ_shifts(grid: Grid, labels: Array, field_grid: Grid) -> Array:
    """Velocities (M, X, Y, Z, 3), mm, on `field_grid`: breathing, which moves all organs, then each alone."""
    half, reach = labels[::2, ::2, ::2], SHIFT_REACH / (2 * STEP)
    points, weights = world_positions(field_grid), {}
    for label in BREATHING:
        near = ndimage.distance_transform_edt(half != label) <= reach
        smooth = ndimage.gaussian_filter(near.astype(np.float32), reach)
        weights[label] = sample_linear(smooth, grid.strided(2), points).reshape(field_grid.shape)
    # Where several organs are near, the weights share the movement.
    scale = border_taper(field_grid) / np.maximum(sum(weights.values()), 1)
    breathing = sum(BREATHING[label] * weight for label, weight in weights.items()) * scale
    own = [(weight * scale)[..., None] * OWN_SHIFT for weight in weights.values()]
    return np.stack([breathing[..., None] * np.array([0.0, 0.1, 1.0]), *own]).astype(np.float32)


def make_abdomen(grid: Grid) -> tuple[Array, Array, Array]:
    """Make the trunk on a grid in its own space.

    Returns:
        Hounsfield units, labels, and where the trunk is, each (X, Y, Z).
    """
    points = coordinates(grid)
    uneven = [smooth_noise(grid.shape, mm / STEP, seed) for seed, mm in enumerate((16, 8, 5))]
    trunk = _trunk(points) + 2 * uneven[0]
    image = np.full(grid.shape, AIR, dtype=np.float32)
    labels = np.zeros(grid.shape, dtype=np.uint8)
    cavity = trunk - WALL
    diaphragm = _diaphragm(points) + 2 * uneven[0]
    _paint_wall(image, points, trunk, uneven)
    _paint_chest(image, points, np.minimum(cavity, -diaphragm), uneven)
    organs = _organs(points, np.minimum(cavity, diaphragm), uneven[0])
    for label, depth in organs.items():
        texture = 5 * uneven[1] + np.where(uneven[2] > 2.3, 40, 0) * (label == LIVER)
        paint(image, depth, TISSUE[label] + texture, STEP)
        labels[depth > 0] = label
    stomach = organs[STOMACH]
    paint(image, np.minimum(stomach - 5, points[1] - 42), AIR, STEP)  # gas, in front of who lies on the back
    vertebrae = _paint_spine(image, points, uneven)
    labels[vertebrae > 0] = VERTEBRAE
    return image, labels, trunk > 0


def _trunk(points: Coordinates) -> Array:
    """The body: narrower at the waist, wider at the hips."""
    x, y, z = points
    waist, hips = np.exp(-(((z + 40) / 60) ** 2)), np.clip((-110 - z) / 80, 0, 1)
    return ellipsoid((x, y), (0, -12), (166 - 14 * waist + 8 * hips, 114 - 6 * waist), 2.3)


def _diaphragm(points: Coordinates) -> Array:
    """How far below the two domes of the diaphragm, mm."""
    x, y, z = points
    height = np.where(x > 0, 98, 84) - ((np.abs(x) - 66) / 11) ** 2 - ((y - 8) / 10) ** 2
    return np.maximum(height, 20) - z


def _paint_wall(image: Array, points: Coordinates, trunk: Array, uneven: list[Array]) -> None:
    """Paint skin, fat, muscles, ribs and pelvis, and fat with bowel in the cavity."""
    x, y, z = points
    paint(image, trunk, MUSCLE, STEP)
    paint(image, trunk - 2.5, FAT, STEP)
    paint(image, trunk - 15 - 4 * uneven[0] - 3 * np.clip(y / 100, -1, 1), MUSCLE + 4 * uneven[2], STEP)
    paint(image, trunk - WALL, FAT, STEP)
    inside = trunk - WALL - 4
    bowel = np.minimum(inside, np.minimum(9 * (uneven[1] + 0.2), y + 45 - 0.1 * z))
    paint(image, bowel, BOWEL + 10 * uneven[2], STEP)
    paint(image, np.minimum(bowel, 9 * (uneven[1] - 1.4) + 0.05 * y), -800.0, STEP)
    side = np.abs(x)
    psoas = np.minimum(ellipsoid((side, y), (36, -58), (17 - z / 20, 19 - z / 20)), 30 - z)
    back = ellipsoid((side, y), (36, -98), (34, 19))
    for muscle in (psoas, back):
        paint(image, muscle, MUSCLE + 4 * uneven[2], STEP)
    # Ribs descend to the front, where they end in cartilage.
    along = z + 0.55 * (y + 80)
    ribs = np.minimum(5 - np.abs(trunk - 25), 5.5 - np.abs(along % 26 - 13))
    ribs = np.minimum(ribs, np.minimum(along - 13, 12 * (side - 25)))
    wings = np.minimum(7 - np.abs(ellipsoid((side, y, z), (40, -35, -235), (90, 75, 105))), trunk - 18)
    wings = np.minimum(wings, np.minimum(side - 45, 40 - y))
    for bone, shell in ((ribs, np.where(y > 55, 110, BONE)), (wings, BONE)):
        paint(image, bone, shell, STEP)
        paint(image, bone - 2.5, np.where(y > 55, 110, MARROW), STEP)


def _paint_chest(image: Array, points: Coordinates, chest: Array, uneven: list[Array]) -> None:
    """Paint lungs with their vessels, and the heart."""
    paint(image, chest, LUNG + 20 * uneven[1] + np.where(uneven[2] > 2.2, 700, 0), STEP)
    x, y, _ = points
    heart = ellipsoid(points, (-22, 28, 150), (56, 46, 66))
    mediastinum = ellipsoid((x, y), (0, -18), (30, 52), 2.5)
    paint(image, np.minimum(chest + 3, union([heart, mediastinum], 4) + 2 * uneven[0]), 120.0, STEP)


def _organs(points: Coordinates, cavity: Array, uneven: Array) -> dict[int, Array]:
    """The organs' depths by label, in the order in which they are painted."""
    x, y, z = points
    right = ellipsoid(points, (74, 4, 30), (84, 84, 86), 2.3)
    left = ellipsoid(points, (-2, 44, 58), (74, 38, 40))
    below = np.minimum((z + 62) - 0.55 * np.maximum(70 - x, 0), 200)
    liver = np.minimum(union([right, left], 4), below)
    spleen = np.minimum(ellipsoid(points, (-102, -42, 42), (36, 50, 60)), -74 - x + 0.25 * (y + 40))
    stomach = union(
        [ellipsoid(points, (-58, 26, 44), (42, 38, 50)), ellipsoid(points, (-14, 46, -10), (52, 20, 19))], 4
    )
    found = {LIVER: liver, SPLEEN: spleen, STOMACH: stomach}
    for label, center in ((LEFT_KIDNEY, (-66, -50, 2)), (RIGHT_KIDNEY, (64, -50, -16))):
        tilted = (x - np.sign(center[0]) * 0.15 * (center[2] - z), y + 0.15 * (z - center[2]), z)
        hilum = (center[0] - np.sign(center[0]) * 22, center[1] + 8, center[2])
        sinus = ellipsoid(tilted, hilum, (15, 12, 22))
        found[label] = np.minimum(ellipsoid(tilted, center, (28, 25, 56)), -sinus)
    cut = {label: np.minimum(depth + 2.5 * uneven, cavity - 3) for label, depth in found.items()}
    aorta = ellipsoid((x, y), (-8, -42 + 6 * np.cos(z / 90)), (11, 11))
    return {**cut, AORTA: aorta}


def _paint_spine(image: Array, points: Coordinates, uneven: list[Array]) -> Array:
    """Paint the vertebral column; returns its depth (X, Y, Z)."""
    x, y, z = points
    bend = 6 * np.cos(z / 90)
    # Vertebrae are lower in the chest, and fused in the sacrum.
    height = z + 0.0007 * np.maximum(z, 0) ** 2
    period = np.where(z > -145, np.abs((height + 3) % 36 - 18), 0)  # mm from the middle of a vertebra
    sacrum = np.clip(0.7 * (-145 - z), 0, 26)
    body = ellipsoid((x, y), (0, -78 + bend), (24 + sacrum, 18), 2.4) + uneven[2]
    canal = ellipsoid((x, y), (0, -107 + bend), (11, 9))
    arch = 6 - np.abs(canal + 6)
    wings = np.minimum(np.minimum(46 - np.abs(x), 5 - np.abs(y + 102 - bend)), 9 - period)
    spine = np.minimum(np.minimum(4 - np.abs(x), 12 - np.abs(y + 126 - bend)), 12 - period)
    behind = np.minimum(np.max(np.broadcast_arrays(arch, wings, spine), axis=0), 15 - period)
    column = np.maximum(body, behind)
    paint(image, body, DISC, STEP)
    for bone in (np.minimum(body, 14 - period), behind):
        paint(image, bone, BONE, STEP)
        paint(image, bone - 2.5, MARROW + 25 * uneven[2], STEP)
    paint(image, canal, FLUID, STEP)
    return np.where(canal > 0, -canal, column)
