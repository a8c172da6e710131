"""STAPLE, against SimpleITK's."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from fusion_data import decided, probabilities

from atlasmith.fusion.staple import expectation_maximization

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(20, 18), (10, 12, 9)])
def test_staple_is_simpleitks(shape: tuple[int, ...]) -> None:
    truth = RANDOM.choice([0, 1, 2], size=shape, p=[0.5, 0.3, 0.2])
    labels = np.stack(
        [
            np.where(RANDOM.random(shape) < p, truth, RANDOM.integers(0, 3, shape))
            for p in (0.95, 0.5, 0.4, 0.4, 0.3)
        ]
    ).astype(np.int32)
    theirs = sitk.MultiLabelSTAPLEImageFilter()
    theirs.SetLabelForUndecidedPixels(99)
    theirs.SetTerminationUpdateThreshold(1e-6)
    pictures = [sitk.GetImageFromArray(m.astype(np.uint8)) for m in labels]
    expected = sitk.GetArrayFromImage(theirs.Execute(pictures))
    fused, confidence = decided(probabilities("staple", labels), shape)
    clear = expected != 99
    assert clear.mean() > 0.95
    np.testing.assert_array_equal(fused[clear], expected[clear])
    # Better than majority voting, since the atlases differ in reliability.
    majority, _ = decided(probabilities("majority", labels), shape)
    assert (fused == truth).mean() > (majority == truth).mean()
    assert ((confidence > 1 / 3) & (confidence <= 1)).all()


def test_of_many_labels_those_with_votes_are_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    # A generator of its own: with other numbers, labels without votes may decide on a voxel or two.
    random = np.random.default_rng(0)
    truth = np.repeat(np.arange(20), 60).reshape(40, 30)
    labels = np.stack(
        [
            np.where(random.random(truth.shape) < p, truth, random.integers(0, 20, truth.shape))
            for p in (0.9, 0.8, 0.8, 0.7, 0.7)
        ]
    ).astype(np.int32)
    sparse = {value: found for value, *found in probabilities("staple", labels)}
    monkeypatch.setattr(expectation_maximization, "DENSE_LABELS", 20)
    dense = {value: probability for value, _, probability in probabilities("staple", labels)}
    assert list(sparse) == list(dense) == list(range(20))
    for value, (box, inside) in sparse.items():
        probability = np.zeros(truth.shape)
        probability[box] = inside
        assert np.abs(probability - dense[value].numpy()).mean() < 1e-3
        assert (probability[(labels != value).all(axis=0)] == 0).all()


def test_staple_does_not_underflow_with_many_atlases() -> None:
    labels = RANDOM.choice([0, 1], size=(2000, 6, 5), p=[0.45, 0.55]).astype(np.int32)
    fused, confidence = decided(probabilities("staple", labels), (6, 5))
    assert np.isfinite(confidence).all() and set(np.unique(fused)) <= {0, 1}
