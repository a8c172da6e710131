"""Random displacements and intensities."""

import pytest
import torch

from atlasmith.core.fields import jacobian_determinant
from atlasmith.core.sampling import warp
from atlasmith.training.augmentation import augment, augment_intensities, random_displacement

SHAPES = [(24, 31), (20, 17, 23)]


@pytest.mark.parametrize("shape", SHAPES)
def test_draws_depend_on_the_generator_alone_and_differ_between_images(shape: tuple[int, ...]) -> None:
    images = torch.rand(1, 1, *shape).expand(3, 1, *shape)
    for draw in (lambda g: augment_intensities(images, g), lambda g: random_displacement(3, shape, g)):
        first, again, other = (draw(torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
        torch.testing.assert_close(first, again, rtol=0, atol=0)
        assert (first - other).abs().max() > 0.01
        assert (first[0] - first[1]).abs().max() > 0.01


@pytest.mark.parametrize("shape", SHAPES)
def test_contrast_changes_and_the_order_of_intensities_stays(shape: tuple[int, ...]) -> None:
    ramp = torch.linspace(0, 1, shape[0]).view(-1, *[1] * (len(shape) - 1)).expand(shape)[None, None]
    changed = augment_intensities(ramp.expand(200, 1, *shape), torch.Generator().manual_seed(0))
    correlations = torch.corrcoef(torch.cat([ramp.reshape(1, -1), changed.flatten(1)]))[0, 1:]
    assert correlations.min() > 0.7
    assert (changed - ramp).flatten(1).mean(1).std() > 0.05


@pytest.mark.parametrize("shape", SHAPES)
def test_displacements_are_moderate_and_rarely_fold(shape: tuple[int, ...]) -> None:
    displacement = random_displacement(100, shape, torch.Generator().manual_seed(0))
    assert displacement.shape == (100, len(shape), *shape)
    fraction = displacement.abs() / torch.tensor(shape).view(1, -1, *[1] * len(shape))
    assert 0.02 < fraction.mean() < 0.15
    assert (jacobian_determinant(displacement) <= 0).float().mean() < 0.01


@pytest.mark.parametrize("shape", SHAPES)
def test_labels_and_masks_follow_the_image(shape: tuple[int, ...]) -> None:
    """An image equal to its own label keeps the label's contrast once both are displaced."""
    inside = torch.zeros(2, 1, *shape)
    inside[(..., *[slice(4, -4)] * len(shape))] = 1
    mask = torch.ones_like(inside)
    mask[:, :, :3] = 0
    images, masks, displacement = augment(0.2 + 0.6 * inside, mask, torch.Generator().manual_seed(0))
    labels = warp(inside, displacement, "nearest")
    assert set(masks.unique().tolist()) == {0.0, 1.0} and 0.5 < masks.mean() < 1
    for image, label, visible in zip(images, labels, masks > 0, strict=True):
        bright, dark = image[visible & (label > 0)], image[visible & (label == 0)]
        assert bright.mean() - dark.mean() > 4 * dark.std()
