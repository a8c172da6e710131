"""Fusion of arrays, without a config."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
from fusion_data import decided, displaced_atlases, probabilities

from atlasmith.core.errors import AtlasmithError
from atlasmith.fusion import FusedLabels, arrays, fuse
from atlasmith.fusion.table import FUSERS

UNTRAINED = [name for name, fuser in FUSERS.items() if not fuser.is_trained]


@pytest.mark.parametrize("method", UNTRAINED)
@pytest.mark.parametrize("shape", [(24, 22), (12, 13, 11)])
def test_arrays_are_fused_as_in_the_stage(method: str, shape: tuple[int, ...]) -> None:
    target, _, images, labels = displaced_atlases(shape, 5, 2)
    fused = fuse(list(labels), list(images), target, method)
    assert isinstance(fused, FusedLabels)
    expected = decided(probabilities(method, labels, images=images, target=target), shape)
    np.testing.assert_array_equal(fused.labels, expected[0])
    np.testing.assert_array_equal(fused.confidence, expected[1])


@pytest.mark.parametrize("method", UNTRAINED)
def test_a_single_slice_is_fused_as_a_2d_image(method: str) -> None:
    target, _, images, labels = displaced_atlases((24, 22), 5, 2)
    flat = fuse(labels, images, target, method)
    slab = fuse(labels[..., None], images[..., None], target[..., None], method)
    assert slab.labels.shape == slab.confidence.shape == (24, 22, 1)
    np.testing.assert_array_equal(slab.labels[..., 0], flat.labels)
    np.testing.assert_array_equal(slab.confidence[..., 0], flat.confidence)


def test_settings_and_prior_are_used() -> None:
    target, _, images, labels = displaced_atlases((24, 22), 5, 2)
    plain = fuse(labels, images, target, "local_selection", atlases=1)
    assert set(np.unique(plain.confidence)) == {1}
    assert not np.array_equal(plain.labels, fuse(labels, images, target, "local_selection", atlases=3).labels)
    majority = fuse(labels)
    np.testing.assert_array_equal(
        fuse(labels, images, target, "local_selection", prior_fallback=1.0, atlases=3).labels[
            majority.confidence > 0.5
        ],
        majority.labels[majority.confidence > 0.5],
    )
    assert (fuse(labels, prior=1.0).confidence >= majority.confidence - 1e-6).all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"method": "votenet"}, "'votenet' needs a trained network"),
        ({"method": "autocontext"}, "majority, local_weighted"),
        ({"method": "majorty"}, "Did you mean 'majority'?"),
        ({"method": "jlf", "images": None}, "needs `images` and `target`"),
        ({"method": "jlf", "target": np.zeros((3, 4))}, "don't match"),
        ({"method": "jlf", "alhpa": 0.1}, "alhpa.*Did you mean 'alpha'?"),
        ({"method": "jlf", "alpha": -1.0}, "alpha.*greater than 0"),
        ({"labels": np.zeros((3, 5, 5))}, "Give integers"),
        ({"labels": np.zeros((5, 5), int)}, r"\(5, 5\)"),
        ({"labels": [np.zeros((5, 5), int), np.zeros((5, 6), int)]}, "differ in shape"),
    ],
)
def test_faults_are_explained(change: dict[str, object], words: str) -> None:
    target, _, images, labels = displaced_atlases((24, 22), 5, 2)
    with pytest.raises(AtlasmithError, match=words):
        fuse(**{"labels": labels, "images": images, "target": target, **change})  # type: ignore[arg-type]


def test_the_example_runs() -> None:
    assert doctest.testmod(arrays).failed == 0
