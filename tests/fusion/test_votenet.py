"""VoteNet: its inputs, and weights from its reliability."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from fusion_data import decided, fusion_inputs, probabilities

from atlasmith.fusion.joint_weights import solve_joint_weights
from atlasmith.fusion.table import FUSERS
from atlasmith.fusion.votenet.error_model import shrink_correlation
from atlasmith.fusion.votenet.network import (
    CHANNELS,
    MAX_DISTANCE,
    RADIUS,
    VoteNet,
    agreement,
    input_channels,
)
from atlasmith.fusion.votenet.training import _split
from atlasmith.fusion.votenet.weights import RIDGE, independent_error_weights

RANDOM = np.random.default_rng(0)


def test_votenet_weights_by_reliability_and_hard_votes_fall_back() -> None:
    labels = np.array([[[1, 1]], [[1, 1]], [[2, 2]]], np.int32)
    reliability = np.array([[[0.4, 0.1]], [[0.3, 0.2]], [[0.9, 0.45]]], np.float32)
    soft, hard = (
        decided(probabilities(method, labels, reliability, sharpness=1), labels.shape[1:])[0]
        for method in ("votenet", "votenet_hard")
    )
    np.testing.assert_array_equal(soft, [[2, 2]])
    np.testing.assert_array_equal(hard, [[2, 2]])
    majority = decided(probabilities("majority", labels), labels.shape[1:])[0]
    assert majority.tolist() == [[1, 1]]


@pytest.mark.parametrize("method", ["votenet", "votenet_hard"])
def test_low_reliability_of_all_atlases_still_decides(method: str) -> None:
    labels = np.array([[[7, 0]], [[7, 0]], [[5, 0]]], np.int32)
    reliability = np.full(labels.shape, 1e-3, np.float32)
    fused, confidence = decided(probabilities(method, labels, reliability, sharpness=16), labels.shape[1:])
    assert fused.tolist() == [[7, 0]]
    np.testing.assert_allclose(confidence, [[2 / 3, 1]], rtol=1e-6)


def test_votenet_plus_solves_the_joint_system() -> None:
    reliability = (0.2 + 0.8 * RANDOM.random((6, 4, 5))).astype(np.float32)
    found = independent_error_weights(torch.from_numpy(reliability)).reshape(6, -1).T
    error = torch.from_numpy(1 - reliability).reshape(6, -1).T
    expected = solve_joint_weights(error[:, :, None] * error[:, None], RIDGE)
    np.testing.assert_allclose(found / found.sum(1, keepdim=True), expected, atol=1e-5)


def test_correlations_that_dont_fit_leave_equal_votes() -> None:
    labels = np.array([[[1]]] * 9 + [[[2]]], np.int32)
    correlation = np.where(np.eye(10), 1, -0.5).astype(np.float32)
    reliability = np.full(labels.shape, 0.8, np.float32)
    inputs = fusion_inputs("votenet_joint", labels, reliability, correlation=correlation)
    fused, confidence = decided(FUSERS["votenet_joint"](inputs), (1, 1))
    assert fused.tolist() == [[1]] and confidence[0, 0] > 0.5


def test_participants_are_held_out_for_validation() -> None:
    participants = [f"{k // 2}" for k in range(24)]
    for seed in range(5):
        validation, training = _split(seed, participants)
        assert sorted(validation + training) == list(range(24)) and len(validation) == 2
        assert {participants[k] for k in validation}.isdisjoint(participants[k] for k in training)
    assert _split(0, participants[:10]) == ([], _split(0, participants[:10])[1])


def test_agreement_and_input_channels() -> None:
    labels = torch.tensor([[[1, 2]], [[1, 3]], [[0, 3]]])
    torch.testing.assert_close(agreement(labels), torch.tensor([[[0.5, 0]], [[0.5, 0.5]], [[0, 0.5]]]))
    x = input_channels(
        torch.rand(1, 6, 7), torch.rand(1, 3, 6, 7), torch.zeros(3, 6, 7).int(), torch.ones(3, 6, 7)
    )
    assert x.shape == (3, CHANNELS, 6, 7)
    torch.testing.assert_close(x[:, 3], torch.ones(3, 6, 7))  # one label everywhere: no boundary is near


def test_input_channels_with_boundaries_and_two_scales() -> None:
    labels = torch.zeros(1, 24, 9, dtype=torch.int32)
    labels[:, :12] = 3
    image = torch.arange(24.0)[:, None].expand(24, 9)
    x = input_channels(
        image[None], 2 * image[None, None], labels, torch.zeros(1, 24, 9), boundary=True, scales=2
    )[0]
    assert len(x) == CHANNELS + 3
    # 0 beside the boundary, then a step more each voxel, up to the largest distance.
    wanted = (torch.tensor([*range(11, -1, -1), *range(12)]) / MAX_DISTANCE).clamp(max=1)
    torch.testing.assert_close(x[CHANNELS], wanted[:, None].expand(24, 9))
    torch.testing.assert_close(x[CHANNELS + 1][2:-2], image[2:-2])  # a ramp's mean is its middle
    torch.testing.assert_close(x[CHANNELS + 2][2:-2], 2 * image[2:-2])


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (3, 4), (2, 3, 1), (1, 1, 1), (4, 9, 3)], ids=str)
def test_input_channels_of_grids_smaller_than_the_neighborhood(shape: tuple[int, ...]) -> None:
    """With a label of one voxel: means are over what lies within the image."""
    labels = torch.zeros(2, *shape, dtype=torch.int32)
    labels[1].view(-1)[labels[1].numel() // 2] = 7
    images = torch.rand(1, 2, *shape)
    found = input_channels(images[:, 0], images, labels, agreement(labels), boundary=True, scales=2)
    assert found.shape == (2, CHANNELS + 3, *shape) and found.isfinite().all()
    edges = torch.zeros(2, *shape)
    for axis in range(1, labels.ndim):
        differ = labels.diff(dim=axis).bool().float()
        edges.narrow(axis, 0, differ.shape[axis]).add_(differ)
        edges.narrow(axis, 1, differ.shape[axis]).add_(differ)
    for place in itertools.product(*map(range, shape)):
        window = tuple(slice(max(x - RADIUS, 0), x + RADIUS + 1) for x in place)
        for atlas in range(2):
            near = edges[atlas][window].mean() / (2 * len(shape))
            smooth = images[0, atlas][window].mean()
            torch.testing.assert_close(found[(atlas, 3, *place)], 1 - near)
            torch.testing.assert_close(found[(atlas, CHANNELS + 2, *place)], smooth)
    network = VoteNet(len(shape), [4, 8, 8], True, 2, "platt", [0, 7], ["a", "b"]).eval()
    with torch.inference_mode():
        assert network.reliability(found, labels).isfinite().all()


def test_the_border_of_the_image_is_no_boundary_of_a_label() -> None:
    labels = torch.zeros(1, 16, 16, dtype=torch.int32)
    labels[:, :8] = 3
    inputs = input_channels(torch.zeros(1, 16, 16), torch.zeros(1, 1, 16, 16), labels, torch.zeros(1, 16, 16))
    inside = inputs[0, 3]
    torch.testing.assert_close(inside[[0, 4, 11, 15]], torch.ones(4, 16))
    assert (inside[7:9] < 1).all()


def test_the_errors_of_a_duplicate_correlate() -> None:
    """Correlations of the atlases' errors on each other, shrunk to the mean where samples are few."""
    count = torch.full((4, 4), 100.0)
    products = torch.full((4, 4), 20.0).fill_diagonal_(200.0)  # twice what the probabilities give
    products[0, 1] = products[1, 0] = 180
    found = shrink_correlation(products, count)
    assert (found.diagonal() == 1).all() and torch.equal(found, found.T)
    mean = (2 * 90 + 10 * 10) / 12 / 100
    assert mean < float(found[0, 1]) < 0.9 and 0.1 < float(found[2, 3]) < mean
    assert torch.equal(shrink_correlation(torch.zeros(1, 1), torch.zeros(1, 1)), torch.ones(1, 1))
