"""Bounding boxes of masks and labels, against SciPy's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import find_objects

from atlasmith.core.boxes import bounding_box, bounding_boxes, label_ranks, widened

SHAPES = [(3, 7, 6), (2, 5, 6, 4), (4, 1, 1), (1, 1, 3, 1), (3, 1, 5, 2)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("values", [[0, 1, 7], [-5, 2], [0, 4, 2**31 - 1], [9]], ids=str)
def test_boxes_are_those_of_scipy(shape: tuple[int, ...], values: list[int]) -> None:
    random = np.random.default_rng(0)
    rank = random.integers(0, len(values), shape)
    rank[0][(-1,) * (len(shape) - 1)] = 0  # a label at the edge
    labels = torch.tensor(values, dtype=torch.int32)[torch.from_numpy(rank)]
    expected = {v: box[1:] for v, box in zip(values, find_objects(rank + 1), strict=False) if box}
    assert dict(bounding_boxes(labels)) == expected
    assert [value for value, _ in bounding_boxes(labels)] == sorted(expected)
    present = sorted(expected)
    np.testing.assert_array_equal(label_ranks(labels, present), np.searchsorted(present, labels))


def test_a_box_is_widened_within_the_grid() -> None:
    assert widened((slice(0, 1), slice(3, 5)), 2, (9, 6)) == (slice(0, 3), slice(1, 6))


@pytest.mark.parametrize("shape", [(7, 6), (5, 6, 4), (1, 3, 1)], ids=str)
def test_the_box_of_a_mask_is_that_of_scipy(shape: tuple[int, ...]) -> None:
    mask = np.random.default_rng(1).random(shape) < 0.1
    assert bounding_box(torch.from_numpy(mask & False)) is None
    mask[(0,) * len(shape)] = True
    assert bounding_box(torch.from_numpy(mask)) == list(find_objects(mask.astype(int))[0])
