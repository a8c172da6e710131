"""Random changes of images that leave their labels true: small libraries learn more from them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from atlasmith.core.sampling import coordinates, resize, warp

# Standard deviations, of images in [0, 1].
GAMMA, GAIN, OFFSET, BIAS, NOISE = 0.25, 0.1, 0.05, 0.15, 0.02
TILT, SHIFT, BEND = 0.1, 0.04, 0.03  # entries of the matrix; of the size of the grid; of the grid's spacing
KNOTS = 6  # a side, of smooth fields


def augmented(image: Tensor, mask: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Images (B, C, *shape) with other intensities in other poses, their masks (B, 1, *shape), and the
    displacements (B, d, *shape) in voxels that labels need to follow."""
    moved = pose(len(image), image.shape[2:], random)
    both = warp(torch.cat([intensities(image, random) * mask, mask], dim=1), moved)
    return both[:, :-1], (both[:, -1:] > 0.5).float(), moved


def intensities(images: Tensor, random: torch.Generator, bias: float = BIAS) -> Tensor:
    """Images (B, C, *shape) with a random gamma, gain, offset, noise, and bias field of that size, each."""
    ones = [1] * (images.ndim - 1)

    def draw(deviation: float) -> Tensor:
        return deviation * torch.randn(len(images), *ones, generator=random)

    field = bias * _smooth(len(images), 1, images.shape[2:], random) if bias else torch.zeros(())
    changed = images.clamp(min=0) ** draw(GAMMA).exp() * (1 + draw(GAIN)) * field.exp() + draw(OFFSET)
    return changed + NOISE * torch.randn(images.shape, generator=random)


def pose(count: int, shape: Sequence[int], random: torch.Generator) -> Tensor:
    """Displacements (count, d, *shape), voxels: a random affine about the middle, and a smooth bend."""
    ndim, ones = len(shape), [1] * len(shape)
    sizes = torch.tensor(shape, dtype=torch.float32).view(1, -1, *ones)
    places = coordinates(shape, sizes) - (sizes - 1) / 2
    tilt = TILT * torch.randn(count, ndim, ndim, generator=random)
    shift = SHIFT * sizes * torch.randn(count, ndim, *ones, generator=random)
    bend = BEND * sizes * _smooth(count, ndim, shape, random)
    return torch.einsum("bij,j...->bi...", tilt, places[0]) + shift + bend


def _smooth(count: int, channels: int, shape: Sequence[int], random: torch.Generator) -> Tensor:
    """Smooth random fields (count, channels, *shape) of standard deviation 1 at their knots."""
    return resize(torch.randn(count, channels, *[KNOTS] * len(shape), generator=random), shape)
