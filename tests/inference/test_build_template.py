"""Templates of images in memory, of several channels and with excluded regions."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from atlasmith.core.grid import Array
from atlasmith.inference.template import build_template

SETTINGS = {
    "affine": {"iterations": 1},
    "template": {"steps": 0, "network": {"channels": [4, 8]}, "refinement": {"rounds": 1, "steps": 4}},
}


def scan(stretch: float) -> dict[str, Array]:
    """An ellipse with an eccentric core, darker than it in T1w and brighter in T2w."""
    x, y = np.mgrid[:28, :26] - 13.0
    disc, core = np.hypot(x / stretch, y) < 9, np.hypot(x - 3, y + 1) < 3
    levels = {"T1w": (0.9, 0.5), "T2w": (0.4, 0.8)}
    return {name: gaussian_filter(np.where(core, b, a) * disc, 0.7) for name, (a, b) in levels.items()}


def test_channels_and_exclusions() -> None:
    intact = [scan(stretch) for stretch in (1.0, 1.1, 1.15, 1.25)]
    x, y = np.mgrid[:28, :26] - 13.0
    lesion = np.hypot(x + 3, y - 3) < 2
    damaged = [dict(images) for images in intact]
    damaged[1]["T1w"] = np.where(lesion, 4.0, intact[1]["T1w"])
    del damaged[2]["T2w"]
    exclude = [None, np.hypot(x + 3, y - 3) < 3, None, None]
    wanted, found, wrong = (
        build_template(images, exclude=regions, **SETTINGS)
        for images, regions in ((intact, None), (damaged, exclude), (damaged, None))
    )
    assert wanted.image.shape == (2, *wanted.grid.shape)
    scale = np.linalg.norm(wanted.image[0])
    assert np.linalg.norm(found.image[0] - wanted.image[0]) < 0.02 * scale
    assert np.linalg.norm(wrong.image[0] - wanted.image[0]) > 0.05 * scale


def test_numbers_of_exclusions_and_images_must_agree() -> None:
    with pytest.raises(ValueError, match="exclude"):
        build_template([scan(1.0), scan(1.1)], exclude=[None], **SETTINGS)
