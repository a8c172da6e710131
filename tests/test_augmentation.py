"""Random poses and intensities."""

import pytest
import torch

from atlasmith.core.fields import jacobian_determinant
from atlasmith.core.sampling import warp
from atlasmith.training.augmentation import augmented, intensities, pose

SHAPES = [(24, 31), (20, 17, 23)]


@pytest.mark.parametrize("shape", SHAPES)
def test_draws_depend_on_the_generator_alone_and_differ_between_images(shape: tuple[int, ...]) -> None:
    images = torch.rand(1, 1, *shape).expand(3, 1, *shape)
    for draw in (lambda g: intensities(images, g), lambda g: pose(3, shape, g)):
        first, again, other = (draw(torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
        torch.testing.assert_close(first, again, rtol=0, atol=0)
        assert (first - other).abs().max() > 0.01
        assert (first[0] - first[1]).abs().max() > 0.01


@pytest.mark.parametrize("shape", SHAPES)
def test_contrast_changes_and_order_stays(shape: tuple[int, ...]) -> None:
    ramp = torch.linspace(0, 1, shape[0]).view(-1, *[1] * (len(shape) - 1)).expand(shape)[None, None]
    changed = intensities(ramp.expand(200, 1, *shape), torch.Generator().manual_seed(0))
    correlations = torch.corrcoef(torch.cat([ramp.reshape(1, -1), changed.flatten(1)]))[0, 1:]
    assert correlations.min() > 0.7
    assert (changed - ramp).flatten(1).mean(1).std() > 0.05


@pytest.mark.parametrize("shape", SHAPES)
def test_poses_keep_the_middle_in_view_and_rarely_fold(shape: tuple[int, ...]) -> None:
    moved = pose(100, shape, torch.Generator().manual_seed(0))
    assert moved.shape == (100, len(shape), *shape)
    share = moved.abs() / torch.tensor(shape).view(1, -1, *[1] * len(shape))
    assert 0.02 < share.mean() < 0.15
    assert (jacobian_determinant(moved) <= 0).float().mean() < 0.01


@pytest.mark.parametrize("shape", SHAPES)
def test_labels_and_masks_follow_the_image(shape: tuple[int, ...]) -> None:
    """An image that is its own label keeps its contrast with the rest once both have moved."""
    inside = torch.zeros(2, 1, *shape)
    inside[(..., *[slice(4, -4)] * len(shape))] = 1
    mask = torch.ones_like(inside)
    mask[:, :, :3] = 0
    image, seen, moved = augmented(0.2 + 0.6 * inside, mask, torch.Generator().manual_seed(0))
    labels = warp(inside, moved, "nearest")
    assert set(seen.unique().tolist()) == {0.0, 1.0} and 0.5 < seen.mean() < 1
    for one, label, here in zip(image, labels, seen > 0, strict=True):
        bright, dark = one[here & (label > 0)], one[here & (label == 0)]
        assert bright.mean() - dark.mean() > 4 * dark.std()
