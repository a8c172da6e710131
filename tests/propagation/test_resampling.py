"""Propagation of label maps and images on arrays, against one-hot interpolation in double precision."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from scipy.linalg import expm
from scipy.ndimage import gaussian_filter, map_coordinates

from atlasmith.core.errors import AtlasmithError
from atlasmith.core.grid import Array, DisplacementField, Grid, Step
from atlasmith.io.images import Image
from atlasmith.propagation import propagate
from atlasmith.propagation.resampling import bounding_box, likely_extent

VALUES = np.array([0, 3, 4, 17, 1000])
OBLIQUE = np.array([[0.9, -0.3, 0.1, 5], [0.35, 1.1, 0.2, -4], [-0.1, -0.2, 1.3, 2], [0, 0, 0, 1]])
TARGETS = {
    "3-D": Grid((15, 13, 12), np.diag([1.1, 1.0, 1.2, 1.0])),
    "oblique": Grid((14, 12, 11), OBLIQUE),
    "2-D": Grid((22, 19, 1), np.diag([1.1, 0.9, 1.0, 1.0])),
    "2-D sagittal": Grid((1, 22, 19), np.diag([1.0, 1.1, 0.9, 1.0])),
}


def around(center: Array, shape: Sequence[int], spacing: Sequence[float]) -> Grid:
    """Make a grid along the world's axes about a center."""
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = center - affine[:3, :3] @ (np.array(shape) - 1) / 2
    return Grid((shape[0], shape[1], shape[2]), affine)


def atlas_of(target: Grid, seed: int) -> tuple[Image, Image]:
    """Random regions of several labels about a target's center, and an image on another grid."""
    random, flat = np.random.default_rng(seed), [n == 1 for n in target.shape]
    shape = np.where(flat, 1, [13, 12, 11] if target.ndim == 3 else [19, 18, 18])
    grid = around(target.center + np.where(flat, 0, 0.11), shape, np.where(flat, 1.0, [0.9, 1.2, 1.0]))
    field = gaussian_filter(random.normal(size=grid.shape), 1.2)
    labels = VALUES[np.searchsorted(np.quantile(field, [0.3, 0.5, 0.7, 0.85]), field)]
    finer = around(target.center + np.where(flat, 0, 0.3), np.where(flat, 1, 20), np.where(flat, 1.0, 0.7))
    image = random.normal(size=finer.shape).astype(np.float32)
    return Image(labels.astype(np.int32), grid), Image(image, finer)


def shift_of(target: Grid, voxels: float) -> Array:
    matrix = np.eye(4)
    matrix[:3, 3] = [
        0 if n == 1 else voxels * size for n, size in zip(target.shape, target.spacing, strict=True)
    ]
    return matrix


def affine_of(target: Grid, seed: int, scale: float = 0.15) -> Array:
    """A random affine about the target's center, within the plane in 2-D."""
    linear = scale * np.random.default_rng(seed).normal(size=(3, 3))
    flat = [n == 1 for n in target.shape]
    linear[flat], linear[:, flat] = 0, 0
    matrix = np.eye(4)
    matrix[:3, :3] = expm(linear)
    matrix[:3, 3] = target.center - matrix[:3, :3] @ target.center
    return matrix


def field_of(target: Grid, seed: int, length: float = 2.5) -> DisplacementField:
    """A smooth random field on a part of the target's world: zero displacement beyond."""
    flat = [n == 1 for n in target.shape]
    # Not exactly about the center: no voxel lies on the border, where rounding decides.
    grid = around(target.center + np.where(flat, 0, 0.07), np.where(flat, 1, 9), np.where(flat, 1.0, 1.3))
    random = np.random.default_rng(seed)
    vectors = np.stack([gaussian_filter(random.normal(size=grid.shape), 1.5) for _ in range(3)], axis=-1)
    vectors[..., flat] = 0
    return DisplacementField(grid, (length * vectors / np.abs(vectors).max()).astype(np.float32))


TRANSFORMS = {
    "identity": lambda target, seed: [],
    "shift": lambda target, seed: [shift_of(target, 1.3 + seed)],
    "affine": lambda target, seed: [affine_of(target, seed)],
    "field": lambda target, seed: [field_of(target, seed)],
    "affine, field, affine": lambda target, seed: [
        affine_of(target, seed),
        field_of(target, seed),
        affine_of(target, seed + 10),
    ],
}


def voxels_of(grid: Grid, points: Array) -> Array:
    """Voxel coordinates (3, N) of world points (N, 3); 0 along the axis that a 2-D image lacks."""
    inverse = np.linalg.inv(grid.affine)
    voxels = points @ inverse[:3, :3].T + inverse[:3, 3]
    voxels[:, [axis for axis in range(3) if axis not in grid.axes]] = 0
    return voxels.T


def transformed(steps: Sequence[Step], target: Grid) -> Array:
    """World points (N, 3) of a target's voxels, transformed by steps."""
    index = np.indices(target.shape).reshape(3, -1).T
    points = index @ target.affine[:3, :3].T + target.affine[:3, 3]
    for step in steps:
        if isinstance(step, DisplacementField):
            voxels = voxels_of(step.grid, points)
            limits = np.array(step.grid.shape)[:, None] - 0.5
            within = ((voxels >= -0.5) & (voxels <= limits)).all(axis=0)
            vectors = [
                map_coordinates(v, voxels, order=1, mode="nearest") for v in np.moveaxis(step.vectors, -1, 0)
            ]
            points = points + np.stack(vectors, axis=-1) * within[:, None]
        else:
            points = points @ step[:3, :3].T + step[:3, 3]
    return points


def linear(image: Image, points: Array, target: Grid) -> Array:
    """Interpolate linearly at world points, zero outside: (X, Y, Z) of the target."""
    voxels = voxels_of(image.grid, points)
    values = map_coordinates(image.data.astype(float), voxels, order=1, mode="grid-constant")
    return values.reshape(target.shape)


def label_weights(labels: Image, points: Array, target: Grid) -> Array:
    """Weights (K, X, Y, Z) of `VALUES`, interpolated linearly; what is missing outside is background."""
    weights = [linear(Image(labels.data == value, labels.grid), points, target) for value in VALUES]
    weights[0] += 1 - np.sum(weights, axis=0)
    return np.stack(weights)


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
@pytest.mark.parametrize("name", TRANSFORMS)
def test_labels_are_the_argmax_of_one_hot_maps_and_images_are_linear(name: str, target: Grid) -> None:
    atlases = [atlas_of(target, seed) for seed in range(3)]
    transforms = [TRANSFORMS[name](target, seed) for seed in range(3)]
    labels, images = zip(*atlases, strict=True)
    found = propagate(labels, transforms, target, images)
    assert found.images is not None and found.labels.shape == found.images.shape == (3, *target.shape)
    for index, steps in enumerate(transforms):
        points = transformed(steps, target)
        weights = label_weights(labels[index], points, target)
        clear = np.diff(np.sort(weights, axis=0)[-2:], axis=0)[0] > 1e-4
        assert clear.mean() > 0.95
        expected = VALUES[weights.argmax(axis=0)]
        assert len(np.unique(expected)) == len(VALUES)
        np.testing.assert_array_equal(found.labels[index][clear], expected[clear])
        np.testing.assert_allclose(found.images[index], linear(images[index], points, target), atol=1e-4)


def test_images_on_the_grid_of_the_labels_are_linear() -> None:
    target = TARGETS["oblique"]
    labels, _ = atlas_of(target, 0)
    image = Image(np.random.default_rng(1).random(labels.data.shape, dtype=np.float32), labels.grid)
    steps = [affine_of(target, 2)]
    found = propagate([labels], [steps], target, [image])
    assert found.images is not None
    np.testing.assert_allclose(found.images[0], linear(image, transformed(steps, target), target), atol=1e-4)
    np.testing.assert_array_equal(found.labels, propagate([labels], [steps], target).labels)
    assert propagate([labels], [steps], target).images is None


@pytest.mark.parametrize("kind", [">i4", ">i2", "u2", "u4", "i8", "u8", "i1"])
@pytest.mark.parametrize("flip", [1, -1])
def test_arrays_of_any_type_byte_order_and_strides(kind: str, flip: int) -> None:
    """Such as nibabel and NumPy's slices give them."""
    grid = Grid((4, 5, 6), np.eye(4))
    labels = np.random.default_rng(0).integers(0, 100, grid.shape).astype(kind)[::flip, :, ::flip]
    image = np.random.default_rng(1).random(grid.shape).astype(">f8")[:, ::flip]
    found = propagate([Image(labels, grid)], [[]], grid, [Image(image, grid)])
    np.testing.assert_array_equal(found.labels[0], labels)
    assert found.images is not None
    np.testing.assert_allclose(found.images[0], image, atol=1e-6)


@pytest.mark.parametrize("value", [-1, 2**31, 2**63])
def test_labels_that_no_int32_holds_are_refused(value: int) -> None:
    """They would become others silently."""
    grid = Grid((2, 2, 2), np.eye(4))
    data = np.full(grid.shape, value, dtype=np.int64 if value < 2**63 else np.uint64)
    fine = Image(np.full(grid.shape, 2**31 - 1), grid)
    assert (propagate([fine], [[]], grid).labels == 2**31 - 1).all()
    with pytest.raises(AtlasmithError, match=f"label map 1 goes from {value} to {value}. Give integers"):
        propagate([fine, Image(data, grid)], [[], []], grid)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_ties_go_to_the_smallest_label(axis: int) -> None:
    """Half a voxel's shift gives two labels, or a label and the outside, the same weight."""
    grid = Grid((9, 8, 7), np.eye(4))
    labels = np.random.default_rng(0).choice(VALUES[1:], grid.shape).astype(np.int32)
    half = np.eye(4)
    half[axis, 3] = 0.5
    following = np.concatenate([np.delete(labels, 0, axis), np.zeros_like(labels.take([0], axis))], axis)
    found = propagate([Image(labels, grid)], [[half]], grid).labels[0]
    np.testing.assert_array_equal(found, np.minimum(labels, following))


def test_the_largest_sum_of_weights_wins_not_the_largest_weight() -> None:
    """At (0.45, 0.45) of a cell, label 5 has the largest weight, and label 9 the largest sum."""
    grid = Grid((2, 2, 1), np.eye(4))
    point = np.eye(4)
    point[:2, 3] = 0.45
    single = Image(np.array([[5, 9], [9, 7]], dtype=np.int32)[..., None], grid)
    found = propagate([single], [[point]], Grid((1, 1, 1), np.eye(4))).labels
    assert found.ravel().tolist() == [9]


def test_nothing_is_outside_the_atlas() -> None:
    grid = Grid((6, 5, 4), np.eye(4))
    atlas = Image(np.full(grid.shape, 8, dtype=np.int32), grid)
    shifts = [np.eye(4), np.eye(4), np.eye(4)]
    shifts[0][0, 3], shifts[1][1, 3], shifts[2][2, 3] = 4, -3, 100
    found = propagate([atlas] * 3, [[shift] for shift in shifts], grid, [atlas] * 3)
    assert found.images is not None
    for maps in (found.labels, found.images):
        assert (maps[0, :2] == 8).all() and (maps[0, 2:] == 0).all()
        assert (maps[1, :, 3:] == 8).all() and (maps[1, :, :3] == 0).all()
        assert (maps[2] == 0).all()


class TestExtent:
    """The extent of the labels is searched on every second voxel of the target."""

    @pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
    @pytest.mark.parametrize("seed", range(8))
    def test_a_single_labelled_voxel_is_found(self, target: Grid, seed: int) -> None:
        """It lies exactly at a random voxel of the target."""
        random = np.random.default_rng(seed)
        wanted = tuple(int(random.integers(n)) for n in target.shape)
        to_template, from_template = [affine_of(target, seed)], [affine_of(target, seed + 20)]
        inverse = np.linalg.inv(to_template[0]) @ np.linalg.inv(from_template[0])
        # An atlas with the target's own grid, as the transform moves it.
        grid = Grid(target.shape, np.linalg.inv(inverse) @ target.affine)
        labels = np.zeros(target.shape, dtype=np.int32)
        labels[wanted] = 6
        atlas = Image(labels, grid)
        found = propagate([atlas], [[*to_template, *from_template]], target).labels[0]
        np.testing.assert_array_equal(found, labels)
        extent = likely_extent([atlas], to_template, [from_template], target, margin=0)
        assert extent is not None
        assert all(s.start <= index < s.stop for s, index in zip(extent, wanted, strict=True))
        assert np.prod([s.stop - s.start for s in extent]) < 0.8 * np.prod(target.shape)

    @pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
    @pytest.mark.parametrize("seed", range(8))
    def test_it_gives_the_labels_and_the_box_of_the_full_grid(self, target: Grid, seed: int) -> None:
        """With a few scattered labels, smaller than the stride, and a margin."""
        random, margin = np.random.default_rng(seed), 1.5
        to_template = [affine_of(target, seed), field_of(target, seed)]
        from_template, labels = [], []
        for index in range(2):
            own, _ = atlas_of(target, seed + index)
            sparse = np.where(random.random(own.data.shape) < 0.01, 5, 0).astype(np.int32)
            labels.append(Image(sparse, own.grid))
            from_template.append([field_of(target, seed + 30 + index), affine_of(target, seed + index)])

        def propagated(grid: Grid) -> Array:
            return propagate(labels, [[*to_template, *steps] for steps in from_template], grid).labels

        full = propagated(target)
        extent = likely_extent(labels, to_template, from_template, target, margin)
        box = bounding_box(torch.from_numpy(full.any(axis=0)), target, margin)
        if box is None:
            assert extent is None or not propagated(target.cropped(extent)).any()
            return
        assert extent is not None
        part = target.cropped(extent)
        found = propagated(part)
        np.testing.assert_array_equal(found, full[:, *extent])
        within = bounding_box(torch.from_numpy(found.any(axis=0)), part, margin)
        assert within is not None
        assert part.cropped(within).same_as(target.cropped(box))
        np.testing.assert_array_equal(found[:, *within], full[:, *box])

    def test_there_is_none_where_no_label_reaches_the_target(self) -> None:
        target = TARGETS["3-D"]
        labels, _ = atlas_of(target, 0)
        assert likely_extent([labels], [shift_of(target, 100)], [[]], target, margin=5) is None
        empty = Image(np.zeros_like(labels.data), labels.grid)
        assert likely_extent([empty, empty], [], [[], []], target, margin=5) is None


def test_the_margin_of_a_box_is_of_voxels_unless_it_is_given() -> None:
    occupied = torch.zeros(40, 40, 40, dtype=torch.bool)
    occupied[18:22, 18:22, 18:22] = True
    for size in (0.05, 1.0, 2.0):  # from a mouse's brain to a body
        grid = Grid((40, 40, 40), np.diag([size, size, 2 * size, 1.0]))
        assert bounding_box(occupied, grid) == [slice(12, 28), slice(12, 28), slice(15, 25)]
        assert bounding_box(occupied, grid, 2 * size) == [slice(16, 24), slice(16, 24), slice(17, 23)]
