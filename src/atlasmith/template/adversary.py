"""What tells moved templates from people, trained against the template, so that this stays sharp.

After Atlas-GAN (Dey et al. 2021, arXiv:2105.04349): a spectrally normalized discriminator of patches that
also sees the covariates, by projection; least squares (Mao et al. 2017, arXiv:1611.04076), and a penalty on
its gradient at real images (R1, Mescheder et al. 2018, arXiv:1801.04406).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

SLOPE = 0.2  # of leaky units
SPREAD = 0.25  # of images in [0, 1]
SHIFT = 0.05  # of the image's size, at most, that real and moved images are shifted by alike


class Adversary(nn.Module):
    """Images (B, 1, *shape) and encoded covariates (B, size) to a value (B, 1, *smaller) for each patch: 1
    for people, 0 for templates that were moved to people."""

    def __init__(self, ndim: int, size: int, channels: Sequence[int]) -> None:
        super().__init__()
        convolution = {2: nn.Conv2d, 3: nn.Conv3d}[ndim]
        widths = [1, *channels]
        self.body = nn.ModuleList(
            spectral_norm(convolution(a, b, 4, stride=2, padding=1)) for a, b in itertools.pairwise(widths)
        )
        self.head = spectral_norm(convolution(widths[-1], 1, 3, padding=1))
        self.projection = spectral_norm(nn.Linear(size, widths[-1], bias=False)) if size else None

    def forward(self, image: Tensor, code: Tensor) -> Tensor:
        x = (image - 0.5) / SPREAD
        for layer in self.body:
            x = F.leaky_relu(layer(x), SLOPE)
        value: Tensor = self.head(x)
        if self.projection is not None:
            value = value + torch.einsum("bc,bc...->b...", self.projection(code), x)[:, None]
        return value

    def terms(
        self, moved: Tensor, real: Tensor, code: Tensor, weight: float, r1: float, random: torch.Generator
    ) -> dict[str, Tensor]:
        """`adversarial`, `weight` times what the template has to lose, and `discriminator`, what this network
        has to, each without a gradient for the other.

        moved: templates (B, 1, *shape) at codes (B, size), moved to images. real: these people's images. Each
        person is set against the template of the one before.
        """
        size = real.shape[2:]
        reach = [int(SHIFT * n) for n in size]
        shift = [int(torch.randint(-n, n + 1, (), generator=random)) for n in reach]
        moved, real = (x.roll(shift, list(range(2, x.ndim))) for x in (moved.roll(1, 0), real))
        self.requires_grad_(False)
        lost = weight * (self(moved, code.roll(1, 0)) - 1).square().mean()
        self.requires_grad_(True)
        real = real.detach().requires_grad_()
        people = self(real, code)
        (slope,) = torch.autograd.grad(people.sum(), real, create_graph=True)
        templates = self(moved.detach(), code.roll(1, 0))
        told = (templates.square().mean() + (people - 1).square().mean()) / 2
        return {
            "adversarial": lost,
            "discriminator": told + r1 / 2 * slope.square().flatten(1).sum(1).mean(),
        }
