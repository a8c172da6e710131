"""Uncertainty of fused labels."""

from __future__ import annotations

import numpy as np
from fusion_data import aligned, decided, probabilities

from atlasmith.fusion.uncertainty import Uncertainty, registration_residual


def test_uncertainty_has_three_components() -> None:
    labels = np.array([[[1, 1, 0]], [[1, 2, 0]], [[1, 2, 0]], [[1, 0, 0]]], np.int32)
    images = np.stack([np.full((1, 3), value, np.float32) for value in (0.5, 0.5, 0.7, 0.3)])
    target = np.full((1, 3), 0.5, np.float32)
    atlases = aligned(labels, images[None], target[None])
    uncertainty = Uncertainty(atlases)
    fused, _ = decided(uncertainty.accumulate(probabilities("majority", labels)), (1, 3))
    entropy, disagreement, registration = uncertainty.maps(registration_residual(atlases))
    assert fused.tolist() == [[1, 2, 0]]
    np.testing.assert_allclose(entropy, [[0, 1.5 * np.log(2), 0]], atol=1e-6)
    np.testing.assert_allclose(disagreement, [[0, 0.5, 0]], atol=1e-6)
    np.testing.assert_allclose(registration, np.full((1, 3), np.sqrt(0.02)), rtol=1e-5)
