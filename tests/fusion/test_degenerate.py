"""Fusion where there is nothing to decide, or hardly any room: identical atlases, thin slabs, tiny grids."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fusion_data import decided, probabilities, random_atlases

from atlasmith.fusion.atlas_qc import find_outliers
from atlasmith.fusion.autocontext.model import AutoContext
from atlasmith.fusion.table import FUSERS
from atlasmith.fusion.votenet.calibration import CALIBRATIONS, fit_calibration
from atlasmith.fusion.votenet.network import VoteNet, agreement, input_channels

SHAPES = [(12, 10, 2), (12, 10, 3), (9, 8, 5), (3, 3, 3), (2, 2), (5, 1, 2)]
VALUES = [0, 3, 900]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("method", FUSERS)
def test_identical_atlases_give_their_own_labels(method: str, count: int, shape: tuple[int, ...]) -> None:
    one = random_atlases(np.random.default_rng(0), shape, VALUES, atlases=1)
    labels, images = (np.repeat(x.numpy(), count, axis=0) for x in (one.labels, one.images[0]))
    trust = np.full(labels.shape, 0.8, np.float32)
    found, confidence = decided(probabilities(method, labels, trust, images, one.target[0].numpy()), shape)
    np.testing.assert_array_equal(found, labels[0])
    assert ((confidence > 0.5) & (confidence <= 1 + 1e-6)).all()


@pytest.mark.parametrize("method", FUSERS)
def test_atlases_without_any_label_give_background(method: str) -> None:
    atlases = random_atlases(np.random.default_rng(0), (10, 9, 3), VALUES)
    labels = np.zeros_like(atlases.labels.numpy())
    trust = np.full(labels.shape, 0.8, np.float32)
    fused = probabilities(method, labels, trust, atlases.images[0], atlases.target[0])
    found, _ = decided(fused, labels.shape[1:])
    assert not found.any()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("method", FUSERS)
def test_different_atlases_on_small_grids(method: str, shape: tuple[int, ...]) -> None:
    """A label comes from an atlas that has it there, or, by a smoothing method, somewhere."""
    atlases = random_atlases(np.random.default_rng(1), shape, VALUES, atlases=3)
    trust = np.random.default_rng(2).uniform(0.3, 0.9, atlases.labels.shape).astype(np.float32)
    fused = probabilities(method, atlases.labels, trust, atlases.images[0], atlases.target[0])
    found, confidence = decided(fused, shape)
    assert np.isfinite(confidence).all()
    assert set(np.unique(found)) <= set(np.unique(atlases.labels))


@pytest.mark.parametrize("shape", [(9, 8), (7, 6, 8), (1, 4)], ids=str)
@pytest.mark.parametrize("method", FUSERS)
def test_labels_of_one_voxel_at_the_edge(method: str, shape: tuple[int, ...]) -> None:
    """Filters over patches take boxes that are smaller than they, and probabilities add up to 1."""
    atlases = random_atlases(np.random.default_rng(1), shape, VALUES, atlases=3)
    labels, corner = atlases.labels.numpy().copy(), (-1,) * len(shape)
    labels[:, *corner] = 7
    labels[0, *(0,) * len(shape)] = 8
    trust = np.full(labels.shape, 0.8, np.float32)
    total = np.zeros(shape, np.float32)
    fused = list(probabilities(method, labels, trust, atlases.images[0].numpy(), atlases.target[0].numpy()))
    for _, box, probability in fused:
        total[box] += probability.numpy()
    np.testing.assert_allclose(total, 1, atol=1e-5)
    assert [value for value, _, _ in fused] == np.unique(labels).tolist()
    assert decided(fused, shape)[0][corner] == 7


@pytest.mark.parametrize("shape", SHAPES[:4], ids=str)
def test_autocontext_equals_the_atlases_where_all_agree(shape: tuple[int, ...]) -> None:
    one = random_atlases(np.random.default_rng(0), shape, VALUES, atlases=1)
    network = AutoContext(VALUES, 8, [["01"], ["02"]])
    found, confidence = decided(network.probabilities(one, "03"), shape)
    np.testing.assert_array_equal(found, one.labels[0])
    assert (confidence == 1).all()


@pytest.mark.parametrize("shape", SHAPES[:4], ids=str)
def test_votenet_takes_slabs_thinner_than_its_levels(shape: tuple[int, ...]) -> None:
    atlases = random_atlases(np.random.default_rng(0), shape, VALUES, atlases=2)
    network = VoteNet(len(shape), [4, 8, 8], False, 1, "platt", VALUES, ["01", "02"], 1)
    labels, images, target = atlases.labels, atlases.images, atlases.target
    inputs = input_channels(target, images, labels, agreement(labels), **network.input_options)
    reliability = network.reliability(inputs, labels)
    assert reliability.shape == labels.shape
    assert torch.isfinite(reliability).all()


@pytest.mark.parametrize("name", CALIBRATIONS)
def test_a_calibration_without_samples_is_the_identity(name: str) -> None:
    calibration = CALIBRATIONS[name](3)
    fit_calibration(calibration, torch.zeros(0), torch.zeros(0, 3), torch.zeros(0))
    logits = torch.tensor([-1.0, 0.5, 2.0])
    torch.testing.assert_close(calibration(logits, torch.ones(3, 3)), logits)


def test_copies_are_named_however_few_atlases_there_are() -> None:
    overlaps = np.array([[np.nan, 1.0], [1.0, np.nan]])
    rows = find_outliers(overlaps, np.ones(2), [1, 0])
    assert [row["duplicate"] for row in rows] == [1, 0]
    assert all("those of another atlas" in row["finding"] for row in rows)
    assert not any(row["finding"] for row in find_outliers(overlaps, np.ones(2), [None, None]))
