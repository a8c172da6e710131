"""The bodies of demo cohorts, by name.

Each entry is a function of the images' voxel size, in voxels of the base, that makes the `Base`, and a line
in BODIES.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from atlasmith.demo.abdomen import load_abdomen
from atlasmith.demo.anatomy import BRAIN, load_brain
from atlasmith.demo.base import Base
from atlasmith.demo.head import load_head

MOUSE_SCALE = 1 / 16  # a power of two, so that coordinates are scaled without rounding
MOUSE = replace(BRAIN, text="one real brain, at the scale of a mouse's")


def load_mouse(spacing: float) -> Base:
    """Load the brain at the scale of a mouse's: 9 x 11 x 10 mm.

    Args:
        spacing: As in `load_brain`.
    """
    return load_brain(spacing).scaled(MOUSE_SCALE, MOUSE)


BODIES: dict[str, Callable[[float], Base]] = {
    "brain": load_brain,
    "head": load_head,
    "abdomen": load_abdomen,
    "mouse": load_mouse,
}
