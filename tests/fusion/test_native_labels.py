"""Fused labels on the subject's own grid."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fusion_data import decided, weighted

from atlasmith.core.grid import Grid
from atlasmith.core.sampling import sample
from atlasmith.core.world import resampling_coordinates
from atlasmith.fusion.native import native_labels

RANDOM = np.random.default_rng(0)


def test_fused_labels_lie_in_the_native_grid() -> None:
    native = Grid((12, 10, 9), np.diag([1.0, 2.0, 1.5, 1.0]))
    box = [slice(3, 8), slice(2, 7), slice(0, 9)]
    crop = native.cropped(box)
    labels = RANDOM.integers(0, 3, (3, *crop.shape)).astype(np.int32)
    weights = np.ones(labels.shape, np.float32)
    fused, confidence = native_labels(weighted(labels, weights), crop, native)
    expected = np.zeros(native.shape, int)
    expected[tuple(box)] = decided(weighted(labels, weights), crop.shape)[0]
    np.testing.assert_array_equal(fused, expected)
    assert (confidence[:3] == 1).all()


def test_probabilities_on_a_coarse_grid_are_interpolated() -> None:
    native = Grid((24, 24, 1), np.eye(4))
    coarse = native.resampled(3.0)
    radius = np.hypot(*(np.mgrid[:8, :8] - 3.5))
    labels = np.stack([np.where(radius < r, 5, 0) for r in (2.2, 2.6, 3.0)]).astype(np.int32)
    weights = np.ones(labels.shape, np.float32)
    fused, _ = native_labels(weighted(labels, weights), coarse, native)
    area = (fused == 5).sum() / 9
    assert area == pytest.approx((labels[1] == 5).sum(), rel=0.2)
    assert fused[12, 12, 0] == 5 and fused[0, 0, 0] == 0


@pytest.mark.parametrize(("shape", "spacing"), [((30, 26, 22), 2.7), ((31, 40, 1), 3.0)])
def test_probabilities_in_boxes_equal_those_on_the_whole_grid(
    shape: tuple[int, int, int], spacing: float
) -> None:
    """Against every label's probability, interpolated over all of the native grid."""
    native = Grid(shape, np.diag([1.0, 1.2, 1.0, 1.0]))
    coarse = native.resampled(spacing)
    grid = coarse.cropped([slice(1 if n > 1 else 0, n) for n in coarse.shape])
    labels = RANDOM.choice([-3, 0, 4, 1000], size=(4, *grid.tensor_shape)).astype(np.int32)
    labels[:, :3] = 0
    weights = RANDOM.random(labels.shape).astype(np.float32)
    voxels = resampling_coordinates(grid, [], native)

    def interpolated(mask: np.ndarray) -> np.ndarray:
        share = (np.where(mask, weights, 0).sum(0) / weights.sum(0)).astype(np.float32)
        return sample(torch.from_numpy(share)[None, None], voxels)[0, 0].numpy()

    values = [0, -3, 4, 1000]
    maps = np.stack([1 - interpolated(labels != 0), *(interpolated(labels == value) for value in values[1:])])
    fused, confidence = native_labels(weighted(labels, weights), grid, native)
    np.testing.assert_array_equal(native.squeeze(fused), np.array(values)[maps.argmax(0)])
    np.testing.assert_allclose(native.squeeze(confidence), maps.max(0), atol=1e-6)
