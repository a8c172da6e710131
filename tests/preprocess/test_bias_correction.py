"""N4 bias-field correction."""

from __future__ import annotations

import numpy as np
import pytest

from atlasmith.core.grid import Grid
from atlasmith.preprocess.n4 import correct_bias


@pytest.mark.parametrize("shape", [(36, 40, 34), (64, 64, 1)])
def test_bias_is_corrected(shape: tuple[int, int, int]) -> None:
    points = np.moveaxis(np.indices(shape), 0, -1) - (np.array(shape) - 1) / 2
    truth = np.where(np.linalg.norm(points / [15, 17, 14], axis=-1) < 1, 100.0, 0).astype(np.float32)
    truth[(points[..., 0] > 2) & (truth > 0)] = 150
    biased = truth * np.exp(0.02 * points[..., 1]).astype(np.float32)
    corrected = correct_bias(biased, Grid(shape, np.eye(4)))
    spread = [data[truth == 100].std() / data[truth == 100].mean() for data in (biased, corrected)]
    assert spread[1] < 0.3 * spread[0]
    assert corrected.dtype == np.float32 and (corrected[truth == 0] == 0).all()


@pytest.mark.parametrize("size", [0.1, 2.0])
def test_the_voxel_size_does_not_matter(size: float) -> None:
    """A mouse's brain is corrected as a human's of the same shape."""
    shape = (40, 36, 32)
    x, y, z = (np.linspace(-1, 1, n) for n in shape)
    inside = x[:, None, None] ** 2 + y[:, None] ** 2 + z**2 < 0.8
    data = np.where(inside, 100 * np.exp(0.3 * x[:, None, None] + 0 * y[:, None] + 0 * z), 0)
    found = [correct_bias(data, Grid(shape, np.diag([s, s, s, 1.0]))) for s in (1.0, size)]
    np.testing.assert_allclose(found[1], found[0], rtol=1e-3)
