"""Slabs of a few slices, and images of a few voxels, through what works on grids of its own choosing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import uniform_filter

from atlasmith.core.grid import Grid
from atlasmith.core.sampling import half_shape, local_mean
from atlasmith.evaluation import evaluate
from atlasmith.inference.conditional_labels import fit_label
from atlasmith.losses import SIMILARITY
from atlasmith.networks import NETWORKS
from atlasmith.preprocess import preprocess

SHAPES = [(24, 20, 2), (24, 20, 3), (24, 20, 5), (3, 3, 3), (5, 4)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name: str, shape: tuple[int, ...]) -> None:
    network = NETWORKS[name](len(shape), 1, len(shape), channels=[4, 4, 4])
    fixed, moving = torch.rand(2, 1, 1, *shape)
    velocity = network(fixed, moving)
    assert velocity.shape[2:] == tuple(half_shape(shape))
    assert torch.isfinite(velocity).all()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", SIMILARITY)
def test_similarities(name: str, shape: tuple[int, ...]) -> None:
    fixed, moved = torch.rand(2, 1, 1, *shape)
    moved.requires_grad_(True)
    loss = SIMILARITY[name](fixed, moved).sum()
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(moved.grad).all()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_local_means_are_those_of_the_part_within_the_image(shape: tuple[int, ...]) -> None:
    maps = np.random.default_rng(0).random((2, *shape))
    means = [
        uniform_filter(x, (0, *[5] * len(shape)), mode="constant")
        if len(x) > 1
        else uniform_filter(x[0], 5, mode="constant")[None]
        for x in (maps, np.ones((1, *shape)))
    ]
    np.testing.assert_allclose(local_mean(torch.from_numpy(maps), 2), means[0] / means[1], rtol=1e-9)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_label_whose_box_is_smaller_than_the_neighborhood(shape: tuple[int, ...]) -> None:
    """Its probability is known where no atlas differs from another."""
    labels, residuals = torch.ones(6, *shape), 0.01 * torch.randn(6, *shape)
    level, slopes = fit_label(labels, residuals, torch.linspace(-1, 1, 6)[:, None])
    torch.testing.assert_close(level, torch.ones(shape))
    torch.testing.assert_close(slopes, torch.zeros(1, *shape), atol=1e-5, rtol=0)


@pytest.mark.parametrize("slices", [1, 2, 3, 5])
def test_n4_removes_a_gradient(slices: int) -> None:
    x, y, _ = np.indices((32, 32, slices)).astype(float)
    inside = np.hypot(x - 15.5, y - 15.5) < 13
    image = np.where(inside, 100 * (1 + 0.03 * x), 0).astype(np.float32)
    grid = Grid(image.shape, np.diag([1.5, 1.5, 6, 1]))
    corrected = preprocess(image, grid, n4=True)[inside]
    assert corrected.std() < 0.1 * preprocess(image, grid)[inside].std()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_metrics(shape: tuple[int, ...]) -> None:
    truth = np.ones(shape, int)
    truth[0] = 0
    spacing = [1.5] * len(shape)
    assert all(score.value in (0, 1) for score in evaluate(truth, truth, spacing))
    for predicted, first in ((truth, np.zeros(shape, int)), (np.zeros(shape, int), truth)):
        values = {
            score.metric: score.value for score in evaluate(predicted, first, spacing) if score.label == 1
        }
        assert values["dice"] == 0
        assert np.isnan(values["hd95_mm"])
