"""A discriminator between warped templates and images, which keeps the template sharp.

After Atlas-GAN (Dey et al. 2021, arXiv:2105.04349): a spectrally normalized discriminator of patches,
conditioned on the covariates by projection; least-squares loss (Mao et al. 2017, arXiv:1611.04076), and a
penalty on its gradient at real images (R1, Mescheder et al. 2018, arXiv:1801.04406).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

SLOPE = 0.2  # of leaky units
INTENSITY_SD = 0.25  # of images in [0, 1]
SHIFT = 0.05  # largest common shift of real and warped images, as a share of the image's size


class Adversary(nn.Module):
    """Map images and covariates to a value for each patch: 1 for real images, 0 for warped templates.

    Args:
        ndim: 2 or 3.
        size: Number of encoded covariates.
        channels: Widths of the strided convolutions, finest first.
        inputs: Number of channels of an image.
    """

    def __init__(self, ndim: int, size: int, channels: Sequence[int], inputs: int = 1) -> None:
        super().__init__()
        convolution = {2: nn.Conv2d, 3: nn.Conv3d}[ndim]
        widths = [inputs, *channels]
        self.body = nn.ModuleList(
            spectral_norm(convolution(a, b, 4, stride=2, padding=1)) for a, b in itertools.pairwise(widths)
        )
        self.head = spectral_norm(convolution(widths[-1], 1, 3, padding=1))
        self.projection = spectral_norm(nn.Linear(size, widths[-1], bias=False)) if size else None

    def forward(self, image: Tensor, code: Tensor) -> Tensor:
        """Map images (B, inputs, *shape) and encoded covariates (B, size) to values (B, 1, *smaller)."""
        x = (image - 0.5) / INTENSITY_SD
        for layer in self.body:
            x = F.leaky_relu(layer(x), SLOPE)
        value: Tensor = self.head(x)
        if self.projection is not None:
            value = value + torch.einsum("bc,bc...->b...", self.projection(code), x)[:, None]
        return value

    def terms(
        self, moved: Tensor, real: Tensor, code: Tensor, weight: float, r1: float, random: torch.Generator
    ) -> dict[str, Tensor]:
        """Compute the losses of the template and of the discriminator, neither with a gradient for the other.

        Each image is compared with the warped template of the batch's previous subject.

        Args:
            moved: Templates (B, inputs, *shape) warped to the images.
            real: The images (B, inputs, *shape).
            code: Encoded covariates (B, size) of the subjects.
            weight: Of the template's loss.
            r1: Weight of the gradient penalty.
            random: Seeded generator on the CPU.

        Returns:
            `adversarial`, the template's loss, and `discriminator`.
        """
        size = real.shape[2:]
        limits = [int(SHIFT * n) for n in size]
        shift = [int(torch.randint(-n, n + 1, (), generator=random)) for n in limits]
        moved, real = (x.roll(shift, list(range(2, x.ndim))) for x in (moved.roll(1, 0), real))
        self.requires_grad_(False)
        adversarial = weight * (self(moved, code.roll(1, 0)) - 1).square().mean()
        self.requires_grad_(True)
        real = real.detach().requires_grad_()
        on_real = self(real, code)
        (gradient,) = torch.autograd.grad(on_real.sum(), real, create_graph=True)
        on_moved = self(moved.detach(), code.roll(1, 0))
        loss = (on_moved.square().mean() + (on_real - 1).square().mean()) / 2
        return {
            "adversarial": adversarial,
            "discriminator": loss + r1 / 2 * gradient.square().flatten(1).sum(1).mean(),
        }
