"""Random changes of intensities and pose that leave labels valid."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from atlasmith.core.sampling import coordinates, resize, warp
from atlasmith.training.device import draw_normal, to_device

# Standard deviations, of images in [0, 1].
GAMMA, GAIN, OFFSET, BIAS, NOISE_SD = 0.25, 0.1, 0.05, 0.15, 0.02
# Standard deviations of the affine's entries; of shift and bend, as shares of the grid's size.
AFFINE, SHIFT, BEND = 0.1, 0.04, 0.03
KNOTS = 6  # per axis, of smooth fields


def augment(image: Tensor, mask: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Change intensities and pose of a batch at random.

    Args:
        image: (B, C, *shape), in [0, 1].
        mask: (B, C, *shape), 1 where a channel has data.
        random: Seeded generator on the CPU.

    Returns:
        The images, their masks, and the displacements (B, d, *shape) in voxels that bring labels along, on
        the images' device. Noise differs between a CPU and a GPU (`draw_normal`), all else but for rounding
        doesn't.
    """
    moved = random_displacement(len(image), image.shape[2:], random, image.device)
    both = warp(torch.cat([augment_intensities(image, random) * mask, mask], dim=1), moved)
    changed, inside = both.chunk(2, dim=1)
    return changed, (inside > 0.5).float(), moved


def augment_intensities(images: Tensor, random: torch.Generator, bias: float = BIAS) -> Tensor:
    """Apply a random gamma, gain, offset, noise and bias field to each channel of each image.

    Args:
        images: (B, C, *shape), in [0, 1], on any device.
        random: Seeded generator on the CPU.
        bias: Standard deviation of the logarithm of the bias field; 0 for none.
    """
    count, channels, *shape = images.shape
    ones = [1] * len(shape)

    def draw(deviation: float) -> Tensor:
        drawn = torch.randn(count, channels, *ones, generator=random)
        return to_device(deviation * drawn, images.device)

    field = bias * _smooth_field(count, channels, shape, random, images.device) if bias else torch.zeros(())
    changed = images.clamp(min=0) ** draw(GAMMA).exp() * (1 + draw(GAIN)) * field.exp() + draw(OFFSET)
    return changed + NOISE_SD * draw_normal(images.shape, random, images.device)


def random_displacement(
    count: int, shape: Sequence[int], random: torch.Generator, device: torch.device
) -> Tensor:
    """Draw displacements (count, d, *shape), in voxels: an affine about the center plus a smooth bend."""
    ndim, ones = len(shape), [1] * len(shape)
    sizes = torch.tensor(shape, dtype=torch.float32).view(1, -1, *ones)
    affine = AFFINE * torch.randn(count, ndim, ndim, generator=random)
    shift = SHIFT * sizes * torch.randn(count, ndim, *ones, generator=random)
    bend = to_device(BEND * sizes, device) * _smooth_field(count, ndim, shape, random, device)
    center = to_device((sizes - 1) / 2, device)
    offsets = coordinates(shape, center) - center
    turned = torch.einsum("bij,j...->bi...", to_device(affine, device), offsets[0])
    return turned + to_device(shift, device) + bend


def _smooth_field(
    count: int, channels: int, shape: Sequence[int], random: torch.Generator, device: torch.device
) -> Tensor:
    """Draw smooth fields (count, channels, *shape) of standard deviation 1 at their knots."""
    knots = torch.randn(count, channels, *[KNOTS] * len(shape), generator=random)
    return resize(to_device(knots, device), shape)
