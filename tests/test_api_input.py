"""What the functions of the API refuse: they never return an empty or silently wrong result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import atlasmith
from atlasmith.core.errors import AtlasmithError
from atlasmith.core.grid import Array, Grid
from atlasmith.io.images import Image

X, Y = np.mgrid[:20, :20] - 9.5
DISC = np.exp(-((np.hypot(X, Y) / 6) ** 4))
GRID = Grid((4, 4, 1), np.eye(4))


def with_nan() -> Array:
    image = DISC.copy()
    image[2, 3] = np.nan
    return image


@pytest.mark.parametrize(
    ("image", "found"),
    [
        (with_nan(), "1 voxels of the image are NaN or infinite"),
        (np.full((20, 20), 7.0), "every voxel of the image is 7"),
        (DISC[0], r"of shape \(20,\)"),
        (DISC[:0], r"of shape \(0, 20\)"),
        (np.zeros((2, 2, 2, 2)), "of shape"),
        (DISC.astype(complex), "complex128"),
    ],
    ids=["nan", "constant", "1-D", "empty", "4-D", "complex"],
)
@pytest.mark.parametrize(
    "call",
    [
        lambda image: atlasmith.align(image, DISC),
        lambda image: atlasmith.align(DISC, image),
        lambda image: atlasmith.register(image, DISC, device="cpu"),
        lambda image: atlasmith.register(DISC, image, device="cpu"),
        lambda image: atlasmith.build_template([DISC, image]),
    ],
    ids=["align fixed", "align moving", "register fixed", "register moving", "build_template"],
)
def test_images(call: Callable[[Any], object], image: Array, found: str) -> None:
    with pytest.raises(AtlasmithError, match=found):
        call(image)


def test_images_of_different_dimensions() -> None:
    with pytest.raises(ValueError, match="a 2-D and a 3-D image"):
        atlasmith.align(DISC, np.stack([DISC] * 3, axis=-1))


def test_lists_and_integers_are_images() -> None:
    matrix = atlasmith.align((100 * DISC).astype(np.uint8).tolist(), (200 * DISC).astype(np.int16))
    np.testing.assert_allclose(matrix, np.eye(4), atol=0.05)


@pytest.mark.parametrize(
    "labels",
    [
        np.full((2, 4, 4), -1),
        np.full((2, 4, 4), 2**40),
        np.zeros((0, 4, 4), int),
        np.ones((2, 4, 4)),
        np.ones((2, 4, 4), bool),
    ],
    ids=["negative", "huge", "none", "floats", "booleans"],
)
def test_labels_to_fuse(labels: Array) -> None:
    with pytest.raises(AtlasmithError, match=r"labels .* Give "):
        atlasmith.fuse(labels)


def test_labels_to_propagate() -> None:
    with pytest.raises(AtlasmithError, match="float64"):
        atlasmith.propagate([Image(np.full(GRID.shape, 1.9999999), GRID)], [[np.eye(4)]], GRID)
    with pytest.raises(AtlasmithError, match="one map for each atlas"):
        atlasmith.propagate([], [], GRID)
