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
