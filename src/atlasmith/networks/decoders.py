"""Decoders, by name: from covariates to the part of a conditional template that isn't linear in them.

Each entry is a class with its `Decoder`, and a line in DECODERS.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atlasmith.core.checkpointing import checkpoint
from atlasmith.core.choices import Choice
from atlasmith.core.fields import per_channel
from atlasmith.core.sampling import coordinates, resize
from atlasmith.networks.blocks import CONVOLUTION, SLOPE, single_precision

FREQUENCIES = 48  # random ones, by which positions are encoded
FREQUENCY_SD = 12.0  # their standard deviation, cycles across the grid
POSITIONS_PER_CHUNK = 2**17  # decoded at once


class CovariateDecoder(nn.Module):
    """The base of all decoders: encoded covariates (B, size) to an image (B, C, *shape).

    The image is that of `decode` less that at the mean covariates, so that the template there doesn't depend
    on the decoder. It is decoded at half of the template's resolution.

    Args:
        shape: Size of the template.
        head: The last layer, whose weights start near zero.
    """

    head: nn.Module

    def __init__(self, shape: Sequence[int], head: nn.Module) -> None:
        super().__init__()
        sizes = (tuple(-(-n // step) for n in shape) for step in (4, 2, 1))
        self.quarter_shape, self.half_shape, self.full_shape = sizes
        self.head = head
        for parameter in head.parameters():
            nn.init.normal_(parameter, std=1e-5)

    def decode(self, code: Tensor) -> Tensor:
        """Map encoded covariates (B, size) to images (B, C, *half)."""
        raise NotImplementedError

    def forward(self, code: Tensor) -> Tensor:
        """Map encoded covariates (B, size) to images (B, C, *shape), zero at the mean covariates."""
        with single_precision(code):
            images = self.decode(torch.cat([code, torch.zeros_like(code[:1])]))
        return resize(images[:-1] - images[-1:], self.full_shape)


@dataclass(frozen=True)
class Decoder(Choice[CovariateDecoder]):
    """Declare a decoder.

    The function builds a `CovariateDecoder` from the number of encoded covariates, the template's size and
    the number of its channels.
    """


def _convolution(inputs: int, outputs: int, ndim: int) -> nn.Module:
    """A convolution of 3 voxels along each axis."""
    return CONVOLUTION[ndim](inputs, outputs, 3, padding=1)


class DenseDecoder(CovariateDecoder):
    """Build a dense layer to features at quarter resolution, then convolutions.

    The number of weights grows with the grid (after Dalca et al. 2019, arXiv:1908.02738).

    Args:
        size: Number of encoded covariates.
        shape: Size of the template.
        channels: Channels of the template.
    """

    width = 8

    def __init__(self, size: int, shape: Sequence[int], channels: int) -> None:
        super().__init__(shape, _convolution(self.width, channels, len(shape)))
        self.hidden = nn.Sequential(nn.Linear(size, 16), nn.ELU(), nn.Linear(16, 16), nn.ELU())
        self.dense = nn.Linear(16, self.width * math.prod(self.quarter_shape))
        self.refine = nn.Sequential(_convolution(self.width, self.width, len(shape)), nn.ELU())

    def decode(self, code: Tensor) -> Tensor:
        """Map encoded covariates (B, size) to images (B, C, *half)."""
        x = self.dense(self.hidden(code)).reshape(len(code), self.width, *self.quarter_shape)
        image: Tensor = self.head(resize(self.refine(x), self.half_shape))
        return image


class FilmDecoder(CovariateDecoder):
    """Build learned features, whose channels the covariates scale and shift after each convolution.

    At quarter resolution (FiLM, Perez et al. 2018, arXiv:1709.07871; in templates Dey et al. 2021,
    arXiv:2105.04349).

    Args:
        size: Number of encoded covariates.
        shape: Size of the template.
        channels: Channels of the template.
    """

    width = 16
    blocks = 3

    def __init__(self, size: int, shape: Sequence[int], channels: int) -> None:
        super().__init__(shape, _convolution(self.width, channels, len(shape)))
        self.constant = nn.Parameter(torch.randn(1, self.width, *self.quarter_shape))
        self.hidden = nn.Sequential(
            nn.Linear(size, 64), nn.LeakyReLU(SLOPE), nn.Linear(64, 64), nn.LeakyReLU(SLOPE)
        )
        self.convolutions = nn.ModuleList(
            _convolution(self.width, self.width, len(shape)) for _ in range(self.blocks)
        )
        self.films = nn.ModuleList(nn.Linear(64, 2 * self.width) for _ in range(self.blocks))

    def decode(self, code: Tensor) -> Tensor:
        """Map encoded covariates (B, size) to images (B, C, *half)."""
        hidden = self.hidden(code)
        x = self.constant.expand(len(code), *self.constant.shape[1:])
        for block, film in zip(self.convolutions, self.films, strict=True):
            scale, shift = film(hidden).view(len(code), 2, self.width, *[1] * (x.ndim - 2)).unbind(1)
            x = x + F.leaky_relu((1 + scale) * block(x) + shift, SLOPE)
        image: Tensor = self.head(resize(x, self.half_shape))
        return image


class CoordinateDecoder(CovariateDecoder):
    """Build a perceptron from a position and the covariates to the intensity there.

    The number of weights doesn't depend on the grid. Positions are encoded as sines and cosines of random
    frequencies (Tancik et al. 2020, arXiv:2006.10739). They are decoded in chunks, and again for the
    gradient, so that little but the image is in memory.

    Args:
        size: Number of encoded covariates.
        shape: Size of the template.
        channels: Channels of the template.
    """

    width = 64
    frequencies: Tensor

    def __init__(self, size: int, shape: Sequence[int], channels: int) -> None:
        super().__init__(shape, nn.Linear(self.width, channels))
        random = torch.Generator().manual_seed(0)
        frequencies = FREQUENCY_SD * torch.randn(len(shape), FREQUENCIES, generator=random)
        self.register_buffer("frequencies", frequencies)
        self.layers = nn.ModuleList(nn.Linear(n, self.width) for n in (2 * FREQUENCIES, self.width))
        self.covariate_layers = nn.ModuleList(nn.Linear(size, self.width) for _ in self.layers)

    def decode(self, code: Tensor) -> Tensor:
        """Map encoded covariates (B, size) to images (B, C, *half)."""
        grid = coordinates(self.half_shape, code)
        positions = (grid / per_channel(self.half_shape, grid))[0].flatten(1).T
        layers = (*self.layers, *self.covariate_layers, self.head)
        weights = [weight for layer in layers for weight in layer.parameters()]
        chunks = positions.split(POSITIONS_PER_CHUNK)
        parts = [checkpoint(self._intensities, chunk, code, *weights) for chunk in chunks]
        return torch.cat(parts, dim=1).movedim(-1, 1).reshape(len(code), -1, *self.half_shape)

    def _intensities(self, positions: Tensor, code: Tensor, *weights: Tensor) -> Tensor:
        """(B, N, C): intensities at covariates (B, size) and positions (N, d), in [0, 1)."""
        *layers, head = list(zip(weights[::2], weights[1::2], strict=True))
        angles = 2 * math.pi * positions @ self.frequencies
        x = torch.cat([angles.sin(), angles.cos()], dim=1)
        count = len(self.layers)
        for layer, covariate_layer in zip(layers[:count], layers[count:], strict=True):
            x = F.elu(F.linear(x, *layer) + F.linear(code, *covariate_layer)[:, None])
        return F.linear(x, *head)


DECODERS: dict[str, Decoder] = {
    "dense": Decoder(DenseDecoder, "A dense layer, then convolutions. The default; grows with the grid."),
    "film": Decoder(FilmDecoder, "Features scaled and shifted by the covariates (FiLM). For large grids."),
    "coordinates": Decoder(CoordinateDecoder, "A perceptron of coordinates. For little memory; slower."),
}
