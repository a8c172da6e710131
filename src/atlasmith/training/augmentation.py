"""Random changes of intensities and pose that leave labels valid."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from atlasmith.core.sampling import coordinates, resize, warp

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
        The images, their masks, and the displacements (B, d, *shape) in voxels that bring labels along.
    """
    moved = random_displacement(len(image), image.shape[2:], random)
    both = warp(torch.cat([augment_intensities(image, random) * mask, mask], dim=1), moved)
    changed, inside = both.chunk(2, dim=1)
    return changed, (inside > 0.5).float(), moved


def augment_intensities(images: Tensor, random: torch.Generator, bias: float = BIAS) -> Tensor:
    """Apply a random gamma, gain, offset, noise and bias field to each channel of each image.

    Args:
        images: (B, C, *shape), in [0, 1].
        random: Seeded generator on the CPU.
        bias: Standard deviation of the logarithm of the bias field; 0 for none.
    """
    count, channels, *shape = images.shape
    ones = [1] * len(shape)

    def draw(deviation: float) -> Tensor:
        return deviation * torch.randn(count, channels, *ones, generator=random)

    field = bias * _smooth_field(count, channels, shape, random) if bias else torch.zeros(())
    changed = images.clamp(min=0) ** draw(GAMMA).exp() * (1 + draw(GAIN)) * field.exp() + draw(OFFSET)
    return changed + NOISE_SD * torch.randn(images.shape, generator=random)


def random_displacement(count: int, shape: Sequence[int], random: torch.Generator) -> Tensor:
    """Draw displacements (count, d, *shape), in voxels: an affine about the center plus a smooth bend."""
    ndim, ones = len(shape), [1] * len(shape)
    sizes = torch.tensor(shape, dtype=torch.float32).view(1, -1, *ones)
    offsets = coordinates(shape, sizes) - (sizes - 1) / 2
    affine = AFFINE * torch.randn(count, ndim, ndim, generator=random)
    shift = SHIFT * sizes * torch.randn(count, ndim, *ones, generator=random)
    bend = BEND * sizes * _smooth_field(count, ndim, shape, random)
    return torch.einsum("bij,j...->bi...", affine, offsets[0]) + shift + bend


def _smooth_field(count: int, channels: int, shape: Sequence[int], random: torch.Generator) -> Tensor:
    """Draw smooth fields (count, channels, *shape) of standard deviation 1 at their knots."""
    return resize(torch.randn(count, channels, *[KNOTS] * len(shape), generator=random), shape)
