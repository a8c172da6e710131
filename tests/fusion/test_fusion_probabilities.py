"""Label probabilities from votes, with a prior, and the decision."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import SimpleITK as sitk
from fusion_data import decided, fusion_inputs, probabilities, weighted

from atlasmith.fusion.probabilities import label_probabilities
from atlasmith.fusion.table import FUSERS

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(9, 8), (7, 8, 6)])
def test_majority_is_simpleitks_label_voting(shape: tuple[int, ...]) -> None:
    labels = RANDOM.choice([0, 4, 7, 200], size=(5, *shape)).astype(np.int32)
    fused, confidence = decided(probabilities("majority", labels), labels.shape[1:])
    undecided = 255
    theirs = sitk.GetArrayFromImage(
        sitk.LabelVoting([sitk.GetImageFromArray(m.astype(np.uint8)) for m in labels], undecided)
    )
    clear = theirs != undecided
    np.testing.assert_array_equal(fused[clear], theirs[clear])
    assert clear.mean() > 0.4
    np.testing.assert_allclose(confidence, (labels == fused).mean(0), rtol=1e-6)


def test_ties_go_to_the_smallest_label_and_any_integer_is_kept() -> None:
    labels = np.array([[[1000]], [[4]]], dtype=np.int32)
    equal, unequal = np.ones(labels.shape, np.float32), np.array([[[0.6]], [[0.4]]], np.float32)
    assert decided(weighted(labels, equal), (1, 1))[0].item() == 4
    assert decided(weighted(labels, unequal), (1, 1))[0].item() == 1000


@pytest.mark.parametrize("method", FUSERS)
def test_equal_atlases_give_their_labels(method: str) -> None:
    labels = np.broadcast_to(RANDOM.integers(0, 140, (10, 11)), (4, 10, 11)).astype(np.int32)
    reliability = RANDOM.random(labels.shape).astype(np.float32)
    fused, confidence = decided(probabilities(method, labels, reliability), labels.shape[1:])
    np.testing.assert_array_equal(fused, labels[0])
    np.testing.assert_allclose(confidence, 1, rtol=1e-5)


@pytest.mark.parametrize("method", ["votenet", "jlf", "autocontext", "staple"])
def test_prior_and_fallback_follow_any_method(method: str) -> None:
    labels = RANDOM.integers(0, 3, (7, 12, 11)).astype(np.int32)
    reliability, images = (RANDOM.random(labels.shape).astype(np.float32) for _ in range(2))
    shape, fuser = labels.shape[1:], FUSERS[method]
    inputs = fusion_inputs(method, labels, reliability, images)
    plain, with_prior = (np.zeros((3, *shape)) for _ in range(2))
    for maps, prior in ((plain, 0.0), (with_prior, 2.0)):
        for value, box, probability in label_probabilities(fuser, inputs, prior):
            maps[value, *box] = probability
    share = np.stack([(labels == value).mean(axis=0) for value in range(3)])
    wanted = plain * share**2
    np.testing.assert_allclose(with_prior, wanted / wanted.sum(axis=0), rtol=1e-4, atol=1e-6)
    top = np.sort(share, axis=0)
    clear = top[-1] > top[-2]
    fused, best = decided(label_probabilities(fuser, inputs), shape)
    fallback = float(np.median(best))
    changed, confidence = decided(label_probabilities(fuser, inputs, prior_fallback=fallback), shape)
    unsure = best < fallback
    assert unsure.any() and not unsure.all()
    np.testing.assert_array_equal(changed[unsure & clear], share.argmax(axis=0)[unsure & clear])
    np.testing.assert_array_equal(changed[~unsure], fused[~unsure])
    np.testing.assert_allclose(confidence[unsure], top[-1][unsure], rtol=1e-5)


def test_memory_does_not_grow_with_the_number_of_labels() -> None:
    peaks = []
    for count in (2, 134):
        labels = RANDOM.integers(0, count, (6, 40, 40, 20)).astype(np.int32)
        tracemalloc.start()
        weights = np.ones(labels.shape, np.float32)
        decided(weighted(labels, weights), labels.shape[1:])
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0]
