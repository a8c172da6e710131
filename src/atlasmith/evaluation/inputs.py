"""What scoring reads: files of earlier stages, and the object in an image."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from atlasmith.core.errors import AtlasmithError
from atlasmith.core.grid import Array, Grid
from atlasmith.evaluation.metrics import foreground
from atlasmith.io.images import Image
from atlasmith.io.tables import MISSING


def parse_score(text: str) -> float:
    """Read a value from a table of scores; NaN where it is missing."""
    return np.nan if text == MISSING else float(text)


def object_mask(image: Image, path: Path) -> Array:
    """Segment the object in an image (X, Y, Z) from `path`; in 2-D, holes are filled in the plane.

    Raises:
        AtlasmithError: If the mask is empty.
    """
    mask = image.grid.unsqueeze(foreground(image.grid.squeeze(image.data)))
    if not mask.any():
        raise AtlasmithError(f"{path} is constant. Look at the log of the stage that wrote it.")
    return mask


def mask_points(grid: Grid, mask: Array) -> Array:
    """Compute the world points (N, 3), RAS mm, of the voxels in a mask (X, Y, Z)."""
    return np.argwhere(mask) @ grid.affine[:3, :3].T + grid.affine[:3, 3]
