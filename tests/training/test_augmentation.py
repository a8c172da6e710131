"""Random displacements and intensities."""

import pytest
import torch
from second_device import DEVICE, SecondDevice
from torch import Tensor

from atlasmith.core.fields import jacobian_determinant
from atlasmith.core.sampling import resize, warp
from atlasmith.training.augmentation import augment, augment_intensities, random_displacement

SHAPES = [(24, 31), (20, 17, 23)]
CPU = torch.device("cpu")


@pytest.mark.parametrize("shape", SHAPES)
def test_draws_depend_on_the_generator_alone_and_differ_between_images(shape: tuple[int, ...]) -> None:
    images = torch.rand(1, 1, *shape).expand(3, 1, *shape)
    for draw in (lambda g: augment_intensities(images, g), lambda g: random_displacement(3, shape, g, CPU)):
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
    displacement = random_displacement(100, shape, torch.Generator().manual_seed(0), CPU)
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


def smooth_field(count: int, channels: int, shape: tuple[int, ...], random: torch.Generator) -> Tensor:
    return resize(torch.randn(count, channels, *[6] * len(shape), generator=random), shape)


@pytest.mark.parametrize("shape", SHAPES)
def test_random_numbers_of_the_cpu_are_the_generators(shape: tuple[int, ...]) -> None:
    """All drawn on the CPU, in the order in which earlier versions drew them."""
    image, ones, ndim = torch.rand(2, 3, *shape), [1] * len(shape), len(shape)
    changed, mask, displacement = augment(image, torch.ones_like(image), torch.Generator().manual_seed(5))

    random = torch.Generator().manual_seed(5)
    sizes = torch.tensor(shape).float().view(1, -1, *ones)
    grid = torch.stack(torch.meshgrid(*(torch.arange(n).float() for n in shape), indexing="ij"))[None]
    affine = 0.1 * torch.randn(2, ndim, ndim, generator=random)
    shift = 0.04 * sizes * torch.randn(2, ndim, *ones, generator=random)
    bend = 0.03 * sizes * smooth_field(2, ndim, shape, random)
    expected = torch.einsum("bij,j...->bi...", affine, (grid - (sizes - 1) / 2)[0]) + shift + bend
    torch.testing.assert_close(displacement, expected, rtol=0, atol=0)

    field = 0.15 * smooth_field(2, 3, shape, random)
    gamma, gain, offset = (s * torch.randn(2, 3, *ones, generator=random) for s in (0.25, 0.1, 0.05))
    noise = 0.02 * torch.randn(image.shape, generator=random)
    intensities = image ** gamma.exp() * (1 + gain) * field.exp() + offset + noise
    both = warp(torch.cat([intensities, torch.ones_like(image)], dim=1), expected)
    torch.testing.assert_close(changed, both[:, :3], rtol=0, atol=0)
    torch.testing.assert_close(mask, (both[:, 3:] > 0.5).float(), rtol=0, atol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_gpu_draws_the_same_but_for_noise_and_waits_for_nothing(
    shape: tuple[int, ...], second_device: SecondDevice
) -> None:
    image = torch.rand(2, 1, *shape)
    given = image.to(DEVICE), torch.ones_like(image).to(DEVICE)
    second_device.clear()
    found = augment(*given, torch.Generator().manual_seed(0))
    again = augment(*given, torch.Generator().manual_seed(0))
    assert not second_device.waits
    expected = augment(image, torch.ones_like(image), torch.Generator().manual_seed(0))
    for first, second in zip(found, again, strict=True):
        assert torch.equal(first.cpu(), second.cpu())
    for here, there in zip(expected[1:], found[1:], strict=True):
        torch.testing.assert_close(there.cpu(), here)
    assert 0 < (found[0].cpu() - expected[0]).std() < 0.05
