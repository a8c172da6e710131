"""Pictures, charts, volumes for the viewer, and numbers in words, against closed forms."""

from __future__ import annotations

import base64
import gzip
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from synthetic_run import grid_of

from atlasmith.core.grid import Array, Grid
from atlasmith.io.images import read_image
from atlasmith.report import charts, pictures
from atlasmith.report.growth import quadratic_fit
from atlasmith.report.text import number_text
from atlasmith.report.volumes import MAX_VOXELS, make_view


@pytest.mark.parametrize(
    ("axis", "row", "column"),
    [(2, 8 - 1 - 6, 1), (1, 2 * (5 - 1 - 3), 1), (0, 2 * (5 - 1 - 3), 6)],
    ids=["axial", "coronal", "sagittal"],
)
def test_plane_is_neurological_with_square_pixels(axis: int, row: int, column: int) -> None:
    grid = grid_of((7, 8, 5))
    data = np.zeros(grid.shape)
    data[1, 6, 3] = 1  # left, front, top
    shown = pictures.plane(data, grid, axis, (1, 6, 3)[axis])
    tall = 1 if axis == 2 else 2  # z has 2 mm: each voxel gets two rows
    assert shown.shape == ((8, 7), (10, 7), (10, 8))[2 - axis]
    assert np.argwhere(shown).tolist() == [[row + i, column] for i in range(tall)]


def test_plane_of_a_file_stored_backwards(tmp_path: Path) -> None:
    """A file in LPI axis order shows the same picture as one in RAS."""
    grid, data = grid_of((6, 7, 4)), np.random.default_rng(0).random((6, 7, 4)).astype(np.float32)
    ras = nib.Nifti1Image(data, grid.affine)
    ras.as_reoriented(np.array([[0, -1], [1, -1], [2, -1]])).to_filename(tmp_path / "lpi.nii.gz")
    image = read_image(tmp_path / "lpi.nii.gz")
    expected = pictures.plane(data, grid, 1, 3)
    np.testing.assert_array_equal(pictures.plane(image.data, image.grid, 1, 3), expected)


def test_plane_keeps_the_aspect_of_a_large_image() -> None:
    grid = grid_of((1000, 500, 1), (0.5, 0.5, 5))
    shown = pictures.plane(np.arange(500000).reshape(grid.shape), grid, 2, 0)
    assert shown.shape == (pictures.LONGEST // 2, pictures.LONGEST)


def test_largest_plane_is_by_area_in_mm() -> None:
    labels = np.zeros((10, 10, 10), int)
    labels[4, 2:6, 2:6] = 3  # 16 voxels across x, of 1 x 5 mm
    labels[1:6, 1:6, 8] = 9  # 26 across z with the block's row, of 1 x 1 mm
    assert pictures.largest_plane(labels, grid_of(labels.shape, (1, 1, 5))) == (0, 4)
    assert pictures.largest_plane(labels, grid_of(labels.shape, (1, 1, 1))) == (2, 8)
    assert pictures.largest_plane(0 * labels, grid_of(labels.shape)) == (2, 5)


def test_windows_and_colors() -> None:
    values = np.linspace(0, 100, 10001)
    low, high = pictures.window(values[:5000], values[5000:])
    assert low == pytest.approx(0.5, abs=0.02) and high == pytest.approx(99.5, abs=0.02)
    assert pictures.window(np.full(4, 3.0)) == (3.0, 4.0)
    sparse = np.zeros(10000)
    sparse[0] = 5
    assert pictures.window(sparse) == (0.0, 5.0)
    assert pictures.window(np.array([np.nan])) == (0.0, 1.0)
    assert pictures.gray(np.array([[-1.0, 0.5, 9.0, np.nan]]), (0, 1))[0, :, 0].tolist() == [0, 127, 255, 0]
    blue, white, red = (pictures.diverging(np.array([[v]]), 2.0)[0, 0].astype(int) for v in (-2, 0, 2))
    assert blue[2] > blue[0] and red[0] > red[2] and white.min() > 240


@pytest.mark.parametrize("count", [2, 12, 140])
def test_colors_of_labels_differ(count: int) -> None:
    colors = np.array(list(pictures.palette(range(1, count + 1)).values()))
    assert len(np.unique(colors, axis=0)) == count
    assert np.linalg.norm(np.diff(colors, axis=0), axis=1).min() > 90  # neighbors in number
    assert pictures.palette([5, 1000]) == pictures.palette([1000, 5])


def test_dark_colors_become_light_enough() -> None:
    for color in [(0, 0, 0), (0, 0, 117), (128, 0, 0)]:
        light = np.dot((0.2126, 0.7152, 0.0722), pictures.lightened(color)) / 255
        assert light == pytest.approx(pictures.MIN_LUMINANCE, abs=0.01)
    assert pictures.lightened((230, 200, 10)) == (230, 200, 10)


def test_outlines_are_the_inner_border_of_each_label() -> None:
    labels = np.zeros((8, 8), int)
    labels[2:6, 2:6] = 5
    labels[2:6, 4:6] = 9
    shown = pictures.outlines(np.zeros((8, 8, 3), np.uint8), labels, {5: (255, 0, 0)})
    red = (shown == (255, 0, 0)).all(axis=-1)
    expected = np.zeros((16, 16), bool)
    expected[4:12, 4:8] = True
    expected[5:11, 5:7] = False
    np.testing.assert_array_equal(red, expected)
    assert not shown[~red].any()  # the label without a color is left out


def _decoded(text: str) -> nib.Nifti1Image:
    return nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(text)))


def _oblique(shape: tuple[int, int, int], spacing: float) -> Grid:
    angle = 0.2
    rotation = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = spacing * rotation
    affine[:3, 3] = (5, -7, 11)
    return Grid(shape, affine)


def _world(affine: Array, voxel: Array) -> Array:
    place: Array = affine[:3, :3] @ voxel + affine[:3, 3]
    return place


def test_a_volume_keeps_its_place_and_its_labels() -> None:
    grid = _oblique((40, 30, 20), 2.0)
    labels = np.zeros(grid.shape, int)
    labels[20:25, 10:15, 8:12] = 1000
    labels[26, 12, 9] = 17
    view = make_view(grid, labels != 0)
    image = _decoded(view.encode_labels(labels, {1000: 1, 17: 2}))
    data = np.asarray(image.dataobj)
    assert data.dtype == np.uint8 and data.size < labels.size / 10
    for label, rank in ((1000, 1), (17, 2)):
        found = [
            _world(affine, np.argwhere(values == value).mean(axis=0))
            for affine, values, value in ((image.affine, data, rank), (grid.affine, labels, label))
        ]
        np.testing.assert_allclose(*found, atol=1e-4)
    assert not np.asarray(_decoded(view.encode_labels(labels, {})).dataobj).any()
    # The voxel (26, 12, 9) in fractions of the volume is in the middle of its voxel there.
    place = np.array(view.position(np.array([26, 12, 9]))) * data.shape
    np.testing.assert_allclose(place - 0.5, np.argwhere(data == 2)[0], atol=0.01)


def test_many_labels_need_two_bytes() -> None:
    grid = grid_of((20, 20, 1))
    labels = np.arange(400).reshape(grid.shape)
    view = make_view(grid, np.ones(grid.shape, bool))
    data = np.asarray(_decoded(view.encode_labels(labels, {n: n for n in range(1, 400)})).dataobj)
    assert data.dtype == np.uint16 and data.shape == (20, 20, 3)
    np.testing.assert_array_equal(data[:, :, 1], labels[:, :, 0])


def test_intensities_are_in_bytes_between_the_limits() -> None:
    grid = grid_of((6, 5, 4))
    data = np.linspace(-1, 2, 120, dtype=np.float32).reshape(grid.shape)
    view = make_view(grid, np.ones(grid.shape, bool))
    shown = np.asarray(_decoded(view.encode_image(data, (0.0, 1.0))).dataobj)
    np.testing.assert_array_equal(shown, np.rint(255 * data.clip(0, 1)))


def test_a_large_volume_gets_larger_voxels_of_the_same_field_of_view() -> None:
    grid = _oblique((140, 130, 120), 1.0)
    x = np.arange(140, dtype=np.float32)[:, None, None] / 139
    data = np.broadcast_to(x, grid.shape)
    view = make_view(grid, np.ones(grid.shape, bool))
    image = _decoded(view.encode_image(data, (0.0, 1.0)))
    assert 0.8 * MAX_VOXELS < np.prod(image.shape) <= MAX_VOXELS
    assert "mm" in view.coarse_text
    ends = [
        _world(affine, corner)
        for affine, shape in ((grid.affine, grid.shape), (image.affine, image.shape))
        for corner in (np.full(3, -0.5), np.array(shape) - 0.5)
    ]
    np.testing.assert_allclose(ends[:2], ends[2:], atol=1e-3)
    # A ramp stays the same ramp.
    shown = np.asarray(image.dataobj)[:, 5, 5] / 255
    places = (np.arange(len(shown)) + 0.5) * 140 / len(shown) - 0.5
    np.testing.assert_allclose(shown[2:-2], (places / 139)[2:-2], atol=0.01)


def test_a_quadratic_fit_and_its_interval() -> None:
    random = np.random.default_rng(0)
    x = random.uniform(20, 90, 40)
    at = np.linspace(20, 90, 5)
    curve = 3 + 0.2 * x - 0.001 * x**2
    (expected, low, high), explained = quadratic_fit(x, curve, at)
    np.testing.assert_allclose(expected, 3 + 0.2 * at - 0.001 * at**2, atol=1e-9)
    np.testing.assert_allclose(high - low, 0, atol=1e-6)
    assert explained == pytest.approx(1)
    hits = []
    for seed in range(200):
        noise = np.random.default_rng(seed).normal(0, 1, 40)
        (_, low, high), _ = quadratic_fit(x, curve + noise, at)
        hits.append((low <= expected) & (expected <= high))
    assert 0.92 < np.mean(hits) < 0.98


def test_numbers_are_short() -> None:
    shown = {"n/a": "–", 0.85312: "0.853", 12345.6: "12346", "7": "7", "0.5": "0.500", -0.0001: "-0.000100"}
    assert [number_text(value) for value in shown] == list(shown.values())
    assert number_text(None) == number_text(float("nan")) == "–"


def test_charts_are_plain_svg_in_the_colors_of_the_page() -> None:
    chart = charts.strips({"a $_": np.random.default_rng(0).random(5000)}, "T <b>")
    assert (
        chart.startswith('<svg role="img" aria-label="T &lt;b&gt;. a $_: median 0.4') and len(chart) < 200_000
    )
    assert "currentColor" in chart and "var(--accent)" in chart
    assert "a $_" in chart and "<b>" not in chart
    curve = charts.curve(np.arange(50_000.0), np.ones(50_000), "loss")
    assert len(curve) < 60_000 and "loss over 50000 steps" in curve
    points = [(np.array([20.0, 40.0]), np.array([1.0, 2.0])), (np.array([30.0]), np.array([1.5]))]
    fit = tuple(np.array(v) for v in ([20.0, 40.0], [1.0, 2.0], [0.8, 1.8], [1.2, 2.2]))
    grown = charts.growth(points, fit, ("part", "age"))  # type: ignore[arg-type]
    assert 'aria-label="Volume of part over age, 3 scans: 1 ml expected at 20, 2 ml expected at 40"' in grown
    for each in (chart, curve, grown):  # titles were black on black
        colors = set(re.findall(r"(?:fill|stroke): ([^;\"]+)", each))
        assert colors <= {"currentColor", "var(--accent)", "none"} and "currentColor" in colors
        assert all("fill: currentColor" in text for text in re.findall(r"<text[^>]*>", each))
