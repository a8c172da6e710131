"""Weights and selection of atlases by local intensity similarity."""

from __future__ import annotations

import numpy as np
from fusion_data import decided, fusion_inputs, weighted

from atlasmith.fusion.local_selection import selection_weights
from atlasmith.fusion.local_weighted import local_weights
from atlasmith.fusion.majority import equal_weights
from atlasmith.fusion.patches import PATCH

RANDOM = np.random.default_rng(0)


def test_local_weights_prefer_the_atlas_most_similar_to_the_target() -> None:
    target = RANDOM.random((16, 16)).astype(np.float32)
    images = np.stack([target, *RANDOM.random((4, 16, 16))]).astype(np.float32)
    labels = np.zeros((5, 16, 16), np.int32)
    labels[0] = 9
    weights = local_weights(fusion_inputs("local_weighted", labels, images=images, target=target))
    assert (decided(weighted(labels, weights), target.shape)[0] == 9).all()
    equal = np.stack([images[1]] * 5)
    weights = local_weights(fusion_inputs("local_weighted", labels, images=equal, target=target))
    np.testing.assert_allclose(weights, 1)


def test_only_the_locally_most_similar_atlases_are_selected() -> None:
    target = RANDOM.random((16, 32)).astype(np.float32)
    images = RANDOM.random((5, *target.shape)).astype(np.float32)
    labels = np.ones(images.shape, np.int32)
    for half, two in ((np.s_[:, :16], [1, 3]), (np.s_[:, 16:], [0, 4])):
        for k in two:
            images[k][half] = target[half]
            labels[k][half] = 5
    data = {"images": images, "target": target}
    weights = selection_weights(fusion_inputs("local_selection", labels, **data, atlases=2))
    assert ((weights == 0) | (weights == 1)).all()
    away = np.abs(np.arange(32) - 15.5) > PATCH
    assert (weights[:, :, away].sum(0) == 2).all()
    fused = decided(weighted(labels, weights), target.shape)[0]
    assert (fused[:, away] == 5).all()
    all_atlases = fusion_inputs("local_selection", labels, **data, atlases=9)
    np.testing.assert_array_equal(selection_weights(all_atlases), equal_weights(all_atlases))
