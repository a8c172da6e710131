"""Filling regions from their surroundings: against solutions of Laplace's equation."""

from __future__ import annotations

import numpy as np
import pytest

from atlasmith.core.grid import Array
from atlasmith.core.inpainting import fill

SHAPES = [(30, 26, 1), (20, 18, 16)]


def ball(shape: tuple[int, ...], radius: float) -> Array:
    offsets = np.indices(shape) - (np.array(shape)[:, None, None, None] - 1) / 2
    return np.sqrt((offsets**2).sum(axis=0)) < radius


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.0, 2.0, 0.5)])
def test_harmonic_images_are_continued_exactly(shape: tuple[int, ...], spacing: tuple[float, ...]) -> None:
    x, y, _ = np.indices(shape) * np.array(spacing)[:, None, None, None]
    image = x**2 - y**2 + 3 * x * y - 2 * x  # its Laplacian is 0, also that of differences
    region = ball(shape, 5)
    filled = fill(np.where(region, 1e4, image), region, spacing=spacing)
    assert np.abs(filled - image).max() < 1e-3 * np.ptp(image)
    np.testing.assert_array_equal(filled[~region], image[~region].astype(np.float32))


def test_what_a_region_held_has_no_influence() -> None:
    random = np.random.default_rng(0)
    image, region = random.normal(size=(20, 18, 16)), ball((20, 18, 16), 6)
    filled = [
        fill(np.where(region, value, image), region) for value in (0, -1e6, random.normal(size=image.shape))
    ]
    np.testing.assert_array_equal(filled[0], filled[1])
    np.testing.assert_array_equal(filled[0], filled[2])
    assert image[~region].min() <= filled[0][region].min() <= filled[0][region].max() <= image[~region].max()


def test_only_known_voxels_are_continued() -> None:
    """A region at the border of a mask continues the inside, whatever lies outside."""
    image = np.where(np.arange(20) < 10, 5.0, 900.0)[:, None, None] + np.zeros((20, 20, 1))
    region = np.zeros(image.shape, dtype=bool)
    region[7:10, 8:12] = True
    filled = fill(np.where(region, -1, image), region, known=image < 10)
    np.testing.assert_allclose(filled[region], 5, rtol=1e-6)
    assert fill(np.where(region, -1, image), region)[region].max() > 100


def test_without_a_region_or_known_voxels_nothing_changes() -> None:
    image = np.random.default_rng(0).normal(size=(6, 5, 4)).astype(np.float32)
    everything, nothing = np.ones(image.shape, dtype=bool), np.zeros(image.shape, dtype=bool)
    np.testing.assert_array_equal(fill(image, nothing), image)
    np.testing.assert_array_equal(fill(image, everything), image)


def test_a_region_beyond_all_known_voxels_takes_the_nearest() -> None:
    image = np.arange(12.0)[:, None, None] + np.zeros((12, 3, 1))
    region, known = image > 8, image < 3
    np.testing.assert_allclose(fill(image, region, known)[region], 2)
