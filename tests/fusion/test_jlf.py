"""Joint label fusion, against ANTs', and joint weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fusion_data import decided, displaced_atlases, probabilities

from atlasmith.fusion.joint_weights import correlated_weights, solve_joint_weights

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("joint_error", "alpha", "weights"),
    [
        ([[1, 0.5], [0.5, 2]], 0.1, [0.7273, 0.2727]),
        # Two atlases with the same errors share one weight.
        ([[1, 1, 0], [1, 1, 0], [0, 0, 1]], 0.1, [0.2558, 0.2558, 0.4884]),
        ([[1, 1, 0], [1, 1, 0], [0, 0, 1]], 0.01, [0.2506, 0.2506, 0.4988]),
        ([[1, 3], [3, 10]], 0.1, [1, 0]),
    ],
)
def test_joint_weights_of_known_systems(
    joint_error: list[list[float]], alpha: float, weights: list[float]
) -> None:
    found = solve_joint_weights(torch.tensor([joint_error], dtype=torch.float64), alpha)[0]
    np.testing.assert_allclose(found, weights, atol=5e-5)


def test_correlated_weights_have_a_closed_form() -> None:
    """Two atlases with the same errors share one weight, and an independent one has one."""
    error = torch.full((5, 3), 0.5)
    correlation = torch.tensor(
        [[1.0, 1, -1], [1, 1, -1], [-1, -1, 1]]
    )  # with p = 1/2, r = -1: never together
    found = correlated_weights(error, correlation, 0.05)
    # M = [[.5, .5, 0], [.5, .5, 0], [0, 0, .5]]: weights as 1 / 1.05, 1 / 1.05, 1 / .55.
    one, two = 1 / 1.05, 1 / 0.55
    wanted = torch.tensor([one, one, two]) / (2 * one + two)
    torch.testing.assert_close(found, wanted.expand(5, 3))


def test_without_correlation_atlases_with_fewer_errors_have_larger_weights() -> None:
    error = torch.tensor([[0.1, 0.3, 0.9]])
    (found,) = correlated_weights(error, torch.eye(3), 0.1)
    diagonal = error[0] * (1 - error[0]) + 0.1
    weights = torch.linalg.solve(torch.outer(error[0], error[0]) + torch.diag(diagonal), torch.ones(3))
    torch.testing.assert_close(found, weights.clamp(min=0) / weights.clamp(min=0).sum())
    assert found[0] > found[1] > found[2]


@pytest.mark.parametrize("shape", [(30, 28), (18, 20, 16)])
def test_joint_label_fusion_corrects_displacements(shape: tuple[int, ...]) -> None:
    target, truth, images, labels = displaced_atlases(shape, 5, 2)
    (joint, _), (majority, _) = (
        decided(probabilities(method, labels, images=images, target=target), shape)
        for method in ("jlf", "majority")
    )
    inner = tuple(slice(5, -5) for _ in shape)
    assert (majority == truth)[inner].mean() < 0.9
    assert (joint == truth)[inner].mean() > 0.97
    order = RANDOM.permutation(5)
    permuted = probabilities("jlf", labels[order], images=images[order], target=target)
    assert (decided(permuted, shape)[0] == joint).mean() > 0.999


def test_joint_label_fusion_is_ants() -> None:
    ants = pytest.importorskip("ants", reason="antspyx isn't installed")
    shape = (18, 20, 16)
    target, _, images, labels = displaced_atlases(shape, 5, 2)
    ours = probabilities("jlf", labels + 1, images=images, target=target, alpha=0.01, beta=4.0)
    mine, _ = decided(ours, shape)
    # A label of 0 can't win a voxel there.
    theirs = ants.joint_label_fusion(
        ants.from_numpy(target),
        ants.from_numpy(np.ones(shape, np.float32)),
        atlas_list=[ants.from_numpy(image) for image in images],
        label_list=[ants.from_numpy((label + 1).astype(np.float32)) for label in labels],
        beta=4,
        rad=2,
        rho=0.01,
        r_search=3,
        nonnegative=False,
        verbose=False,
    )["segmentation"].numpy()
    inner = tuple(slice(6, -6) for _ in shape)
    assert (mine - 1 == np.rint(theirs) - 1)[inner].mean() > 0.97
