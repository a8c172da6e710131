"""Decoders: from covariates to the part of a conditional template that a straight line leaves unexplained.

All are zero at the mean covariates, so that the template there is the free volume alone, and work at half of
the template's resolution at most. A new one is a class with `shown` and a line in `DECODERS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atlasmith.core.checkpointing import checkpoint
from atlasmith.core.sampling import coordinates, resize

SLOPE = 0.2  # of leaky units
FREQUENCIES, SHARPEST = 48, 12.0  # of places; SD of their cycles across the grid
CHUNK = 2**17  # places at once


class Decoder(nn.Module):
    """Covariates (B, size), encoded, to an image (B, 1, *shape). `head` is its last layer, which starts, and
    falls silent, at zero."""

    head: nn.Module

    def __init__(self, shape: Sequence[int], head: nn.Module) -> None:
        super().__init__()
        self.coarse, self.middle, self.full = (tuple(-(-n // step) for n in shape) for step in (4, 2, 1))
        self.head = head
        for parameter in head.parameters():
            nn.init.normal_(parameter, std=1e-5)

    def shown(self, code: Tensor) -> Tensor:
        """(B, 1, *half), at any covariates."""
        raise NotImplementedError

    def forward(self, code: Tensor) -> Tensor:
        shown = self.shown(torch.cat([code, torch.zeros_like(code[:1])]))
        return resize(shown[:-1] - shown[-1:], self.full)


def _convolution(inputs: int, outputs: int, ndim: int) -> nn.Module:
    return {2: nn.Conv2d, 3: nn.Conv3d}[ndim](inputs, outputs, 3, padding=1)


class DenseDecoder(Decoder):
    """A dense layer to a quarter-resolution grid of features, then convolutions (after Dalca et al. 2019,
    arXiv:1908.02738). Its weights grow with the grid."""

    width = 8

    def __init__(self, size: int, shape: Sequence[int]) -> None:
        super().__init__(shape, _convolution(self.width, 1, len(shape)))
        self.hidden = nn.Sequential(nn.Linear(size, 16), nn.ELU(), nn.Linear(16, 16), nn.ELU())
        self.dense = nn.Linear(16, self.width * math.prod(self.coarse))
        self.refine = nn.Sequential(_convolution(self.width, self.width, len(shape)), nn.ELU())

    def shown(self, code: Tensor) -> Tensor:
        x = self.dense(self.hidden(code)).reshape(len(code), self.width, *self.coarse)
        shown: Tensor = self.head(resize(self.refine(x), self.middle))
        return shown


class FilmDecoder(Decoder):
    """A learned map of features at quarter resolution, the same for everyone, whose channels the covariates
    scale and shift after each convolution (FiLM, Perez et al. 2018, arXiv:1709.07871; in templates Dey et
    al. 2021, arXiv:2105.04349)."""

    width = 16
    blocks = 3

    def __init__(self, size: int, shape: Sequence[int]) -> None:
        super().__init__(shape, _convolution(self.width, 1, len(shape)))
        self.constant = nn.Parameter(torch.randn(1, self.width, *self.coarse))
        self.hidden = nn.Sequential(
            nn.Linear(size, 64), nn.LeakyReLU(SLOPE), nn.Linear(64, 64), nn.LeakyReLU(SLOPE)
        )
        self.convolutions = nn.ModuleList(
            _convolution(self.width, self.width, len(shape)) for _ in range(self.blocks)
        )
        self.films = nn.ModuleList(nn.Linear(64, 2 * self.width) for _ in range(self.blocks))

    def shown(self, code: Tensor) -> Tensor:
        known = self.hidden(code)
        x = self.constant.expand(len(code), *self.constant.shape[1:])
        for block, film in zip(self.convolutions, self.films, strict=True):
            scale, shift = film(known).view(len(code), 2, self.width, *[1] * (x.ndim - 2)).unbind(1)
            x = x + F.leaky_relu((1 + scale) * block(x) + shift, SLOPE)
        shown: Tensor = self.head(resize(x, self.middle))
        return shown


class CoordinateDecoder(Decoder):
    """A perceptron from a place and the covariates to the value there: the same few weights for a grid of
    any size. Places are seen as sines of random frequencies (Tancik et al. 2020, arXiv:2006.10739). It is
    computed twice, some places at a time, so it needs hardly any memory but its answer's."""

    width = 64
    frequencies: Tensor

    def __init__(self, size: int, shape: Sequence[int]) -> None:
        super().__init__(shape, nn.Linear(self.width, 1))
        random = torch.Generator().manual_seed(0)
        frequencies = SHARPEST * torch.randn(len(shape), FREQUENCIES, generator=random)
        self.register_buffer("frequencies", frequencies)
        self.layers = nn.ModuleList(nn.Linear(n, self.width) for n in (2 * FREQUENCIES, self.width))
        self.known = nn.ModuleList(nn.Linear(size, self.width) for _ in self.layers)

    def shown(self, code: Tensor) -> Tensor:
        sizes = code.new_tensor(self.middle).view(1, -1, *[1] * len(self.middle))
        places = (coordinates(self.middle, code) / sizes)[0].flatten(1).T
        layers = (*self.layers, *self.known, self.head)
        weights = [weight for layer in layers for weight in layer.parameters()]
        parts = [checkpoint(self._at, part, code, *weights) for part in places.split(CHUNK)]
        return torch.cat(parts, dim=1).view(len(code), 1, *self.middle)

    def _at(self, places: Tensor, code: Tensor, *weights: Tensor) -> Tensor:
        """(B, N): values for covariates (B, size) at places (N, d), in [0, 1)."""
        *layers, head = list(zip(weights[::2], weights[1::2], strict=True))
        angles = 2 * math.pi * places @ self.frequencies
        x = torch.cat([angles.sin(), angles.cos()], dim=1)
        for layer, known in zip(layers[: len(self.layers)], layers[len(self.layers) :], strict=True):
            x = F.elu(F.linear(x, *layer) + F.linear(code, *known)[:, None])
        return F.linear(x, *head)[..., 0]


DECODERS: dict[str, Callable[[int, Sequence[int]], Decoder]] = {
    "dense": DenseDecoder,
    "film": FilmDecoder,
    "coordinates": CoordinateDecoder,
}
