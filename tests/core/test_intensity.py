"""Normalization of intensities, and smoothing for a coarser grid."""

from __future__ import annotations

import numpy as np

from atlasmith.core.grid import Grid
from atlasmith.core.intensity import antialias, find_background, looks_like_hounsfield, normalize


def test_normalize() -> None:
    rng = np.random.default_rng(0)
    texture = rng.uniform(50, 150, (20, 20, 20)).astype(np.float32)
    plain = normalize(texture)
    assert plain.dtype == np.float32 and plain.min() == 0 and plain.max() == 1
    np.testing.assert_allclose([np.mean(plain == 0), np.mean(plain == 1)], 0.01, atol=0.002)
    np.testing.assert_allclose(normalize(texture * 1000 + 7), plain, atol=1e-4)

    stripped = texture.copy()
    stripped[:5] = 0
    expected = np.clip(stripped / np.percentile(texture[5:], 99.5), 0, 1)
    np.testing.assert_allclose(normalize(stripped), expected, atol=1e-6)
    np.testing.assert_array_equal(normalize(np.full((3, 3, 1), 4.0)), 0)


def test_antialias_has_the_width_of_the_voxels() -> None:
    """A point becomes a Gaussian of FWHM^2 = 3^2 - 1^2 mm^2 along the fine axes."""
    grid = Grid((31, 31, 31), np.diag([1.0, 1.0, 4.0, 1.0]))
    point = np.zeros(grid.shape, dtype=np.float32)
    point[15, 15, 15] = 1
    smooth = antialias(point, grid, 3.0)
    place = np.arange(31) - 15
    variance = [(smooth.sum(axis=tuple({0, 1, 2} - {axis})) * place**2).sum() for axis in range(3)]
    np.testing.assert_allclose(variance, [8 / (8 * np.log(2))] * 2 + [0], rtol=0.02, atol=1e-9)
    assert antialias(point, grid, 1.0) is point


def blob(size: int = 60, radius: float = 5.0) -> np.ndarray:
    """A small textured disc of intensity 60 to 100 in a large field of zeros."""
    x, y = np.mgrid[:size, :size] - (size - 1) / 2
    texture = np.random.default_rng(0).uniform(60, 100, (size, size))
    return np.where(np.hypot(x, y) < radius, texture, 0).astype(np.float32)


def test_darker_voxels_than_the_background_change_nothing() -> None:
    plain = blob()
    expected = normalize(plain)
    assert expected.max() == 1 and np.mean(expected == 0) > 0.9
    dark = plain.copy()
    dark[1, 1] = -1e-3
    dark[2, :10] = -30  # ringing of an interpolation
    np.testing.assert_array_equal(np.where(dark < 0, 0, normalize(dark)), expected)
    assert (normalize(dark)[dark < 0] == 0).all()


def test_a_background_with_the_noise_of_an_interpolation_is_one() -> None:
    plain = blob()
    noisy = plain + np.where(plain == 0, np.random.default_rng(1).normal(0, 1e-3, plain.shape), 0)
    assert find_background(noisy) is not None
    np.testing.assert_allclose(normalize(noisy), normalize(plain), atol=1e-3)
    hot = plain.copy()
    hot[30, 30] = 3000
    assert find_background(hot) is not None


def test_dark_tissue_is_no_background() -> None:
    crop = np.random.default_rng(2).uniform(0, 100, (30, 30)).astype(np.float32)
    assert find_background(crop) is None
    assert find_background(np.round(crop / 30)) is not None  # a third of the voxels have one intensity
    air = np.where(blob() == 0, np.abs(np.random.default_rng(3).normal(0, 3, (60, 60))), blob())
    assert find_background(air) is None  # noise of some percent of the contrast is an intensity of its own


def test_a_window_gives_the_same_image_as_windowing_before() -> None:
    hounsfield = np.where(
        blob() == 0, -1000 + np.random.default_rng(4).normal(0, 8, (60, 60)), 1.2 * blob() - 40
    )
    hounsfield[:, :5] = -1024
    assert looks_like_hounsfield(hounsfield) and not looks_like_hounsfield(blob())
    window = (-100.0, 160.0)
    expected = (np.clip(hounsfield, *window) + 100) / 260
    np.testing.assert_allclose(normalize(hounsfield, window), expected, atol=1e-6)
    assert not looks_like_hounsfield(np.clip(hounsfield, *window))
