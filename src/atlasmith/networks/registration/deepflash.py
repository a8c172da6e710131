"""A network on the low frequencies of the images, which gives those of the velocity."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from atlasmith.core.fields import per_channel
from atlasmith.core.sampling import coordinates, half_shape
from atlasmith.networks.blocks import single_precision
from atlasmith.networks.registration.base import Network
from atlasmith.networks.unet import UNet

Waves = list[tuple[Tensor, Tensor]]  # cosines and sines (n, frequencies) for each axis


class DeepFLASH(nn.Module):
    """Build a U-Net from the low frequencies of both images to those of the output.

    (Wang and Zhang 2020, arXiv:2004.02097.) The cost of the network doesn't depend on the images' size, and
    the output is smooth and periodic. As theirs it computes with real and imaginary parts. Theirs has a
    network for each; this one takes both as channels, since the imaginary part of a velocity depends on the
    real parts of the images as well. A coefficient of frequency k is weighted by (1 + |k|^2)^(-d/2).

    Args:
        ndim: As in `Network`.
        inputs: As in `Network`.
        outputs: As in `Network`.
        channels: As in `Network`.
        modes: Largest frequency along each axis, periods of the image.
    """

    def __init__(
        self, ndim: int, inputs: int, outputs: int, channels: Sequence[int] = (16, 32, 32), modes: int = 6
    ) -> None:
        super().__init__()
        self.modes = modes
        self.body = UNet(ndim, 4 * inputs, 2 * outputs, channels)

    def forward(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """Map two images (B, inputs, *shape) to (B, outputs, *half)."""
        images, shape = torch.cat([fixed, moving], dim=1), fixed.shape[2:]
        half = half_shape(shape)
        modes = [min(self.modes, (n - 1) // 2) for n in half]
        with single_precision(images):
            x = images.float()
            spectrum = _transform(x, _waves(shape, shape, modes, x))
        coefficients = self.body(torch.cat(spectrum, dim=1))
        with single_precision(images):
            grid = coordinates([2 * m + 1 for m in modes], coefficients)
            square = (grid - per_channel(modes, grid)).square().sum(1, keepdim=True)
            weighted = (1 + square) ** (-len(shape) / 2) * coefficients
            real, imaginary = weighted.chunk(2, dim=1)
            return _inverse(real, imaginary, _waves(half, shape, modes, x))


def _waves(size: Sequence[int], shape: Sequence[int], modes: Sequence[int], like: Tensor) -> Waves:
    """Waves of frequencies -modes to modes at a grid of `size` whose corners are those of `shape`, with the
    period of `shape`."""
    waves = []
    for n, period, highest in zip(size, shape, modes, strict=True):
        voxels = torch.arange(n, device=like.device, dtype=like.dtype) * ((period - 1) / max(n - 1, 1))
        frequencies = torch.arange(-highest, highest + 1, device=like.device, dtype=like.dtype)
        angles = (2 * math.pi / period) * voxels[:, None] * frequencies
        waves.append((angles.cos(), angles.sin()))
    return waves


def _transform(x: Tensor, waves: Waves) -> tuple[Tensor, Tensor]:
    """Real and imaginary parts (B, C, *frequencies) of the Fourier coefficients of images (B, C, *shape)."""
    real, imaginary = x, torch.zeros_like(x)
    for axis, (cosines, sines) in enumerate(waves, start=2):
        real, imaginary = _times(real, imaginary, cosines / len(cosines), -sines / len(sines), axis)
    return real, imaginary


def _inverse(real: Tensor, imaginary: Tensor, waves: Waves) -> Tensor:
    """The real part (B, C, *shape) of the sum of waves with coefficients (B, C, *frequencies)."""
    for axis, (cosines, sines) in enumerate(waves, start=2):
        real, imaginary = _times(real, imaginary, cosines.T, sines.T, axis)
    return real


def _times(real: Tensor, imaginary: Tensor, a: Tensor, b: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Multiply complex maps along an axis by the complex matrix a + ib: real and imaginary parts."""
    x, y = real.movedim(axis, -1), imaginary.movedim(axis, -1)
    return (x @ a - y @ b).movedim(-1, axis), (x @ b + y @ a).movedim(-1, axis)


deepflash = Network(
    DeepFLASH,
    "U-Net on the images' low frequencies (DeepFLASH). For smooth deformations, with little memory.",
)
