"""Sampling and warping on one grid."""

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates
from smooth import smooth_field

from atlasmith.core.sampling import coordinates, sample, sample_labels, warp

SHAPES = [(13, 10), (12, 9, 11)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("mode", "order"), [("bilinear", 1), ("nearest", 0)])
def test_warp_equals_scipy(shape: tuple[int, ...], mode: str, order: int) -> None:
    image = torch.from_numpy(np.random.default_rng(1).normal(size=shape)).float()
    field = smooth_field(shape, 2.0)
    points = (coordinates(shape, field) + field)[0].numpy()
    expected = map_coordinates(image.numpy(), points, order=order, mode="nearest")
    ours = warp(image[None, None], field, mode, "border")[0, 0].numpy()  # type: ignore[arg-type]
    assert np.mean(np.abs(ours - expected) > 1e-4) < (0.01 if order == 0 else 1e-9)


@pytest.mark.parametrize("shape", SHAPES)
def test_gradient_of_sampling(shape: tuple[int, ...]) -> None:
    image = torch.rand(1, 2, *shape, dtype=torch.float64, requires_grad=True)
    points = (coordinates(shape, image) * 0.71 + 0.93).detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda i, p: sample(i, p)[..., :3], (image, points), fast_mode=True)


@pytest.mark.parametrize("shape", SHAPES)
def test_labels_are_the_argmax_of_linear_one_hot_maps(shape: tuple[int, ...]) -> None:
    values = torch.tensor([0, 3, 4, 1000])
    labels = values[torch.from_numpy(np.random.default_rng(5).integers(0, 4, shape))]
    points = coordinates(shape, torch.zeros(())) + smooth_field(shape, 3.0, seed=6)
    one_hot = (labels == values.view(-1, *[1] * len(shape))).float()[None]
    scores = sample(one_hot, points)
    scores[:, 0] += 1 - scores.sum(1)  # outside is background
    clear = scores.topk(2, dim=1).values.diff(dim=1)[0, 0].abs() > 1e-4
    ours = sample_labels(labels, points)
    assert torch.equal(ours[clear], values[scores.argmax(1)[0]][clear])
    assert clear.float().mean() > 0.95


def test_ties_between_labels_go_to_the_smallest() -> None:
    labels = torch.tensor([[7, 2], [2, 7]])
    middle = torch.full((1, 2, 1, 1), 0.5)
    assert sample_labels(labels, middle).item() == 2
