"""A conditional variational autoencoder: velocities of a low-dimensional code."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atlasmith.core.sampling import half_shape, resize
from atlasmith.networks.blocks import conv_block, crop, head, pad_to_multiple, strided_blocks
from atlasmith.networks.registration.base import Network, RegistrationNetwork

CELLS = 4  # of the pooled features along each axis
POOL = {2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}


class ConditionalVAE(RegistrationNetwork):
    """Build an encoder of both images to a Gaussian code, and a decoder of the code given the moving image.

    (Krebs et al. 2019, doi:10.1109/TMI.2019.2897112.) In training, once its phases have begun, the code is
    sampled from the posterior, whose divergence from the standard normal prior is the term `kl`; otherwise
    the code is the posterior's mean. The decoder sees the moving image at each level. Unlike theirs the
    features are pooled to a fixed number of cells before the code, so that an image may have any size, and
    the smoothness is left to the regularizers.

    Args:
        ndim: As in `Network`.
        inputs: As in `Network`.
        outputs: As in `Network`.
        channels: As in `Network`.
        latent: Length of the code.
        kl_weight: Weight of the divergence, summed over the code.
    """

    def __init__(
        self,
        ndim: int,
        inputs: int,
        outputs: int,
        channels: Sequence[int] = (16, 32, 32),
        latent: int = 32,
        kl_weight: float = 1e-4,
    ) -> None:
        super().__init__()
        self.multiple, self.kl_weight, self.sampling = 2 ** len(channels), kl_weight, False
        self.encoder = nn.Sequential(*strided_blocks(ndim, 2 * inputs, channels))
        cells = channels[-1] * CELLS**ndim
        self.posterior, self.unfold = nn.Linear(cells, 2 * latent), nn.Linear(latent, cells)
        nn.init.normal_(self.posterior.weight, std=0.1 / math.sqrt(cells))  # near the prior
        self.decoder = nn.ModuleList(
            conv_block(ndim, before + inputs, width)
            for before, width in itertools.pairwise([channels[-1], *reversed(channels)])
        )
        self.head = head(ndim, channels[0], outputs)

    def schedule(self, progress: float) -> None:
        """Sample codes from now on in training mode."""
        self.sampling = True

    def encode(self, fixed: Tensor, moving: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the posterior of the code of two images.

        Args:
            fixed: (B, inputs, *shape).
            moving: (B, inputs, *shape).

        Returns:
            Mean and logarithm of the variance, (B, latent) both.
        """
        x = self.encoder(pad_to_multiple(torch.cat([fixed, moving], dim=1), self.multiple))
        pooled = POOL[x.ndim - 2](x, CELLS).flatten(1)
        mean, log_variance = self.posterior(pooled).float().chunk(2, dim=1)
        return mean, log_variance

    def decode(self, code: Tensor, moving: Tensor) -> Tensor:
        """Compute the output of codes, such as those along one axis of the latent space: a mode of variation.

        Args:
            code: (B, latent).
            moving: (B, inputs, *shape).

        Returns:
            (B, outputs, *half), as that of `forward`.

        Example:
            >>> network = ConditionalVAE(2, 1, 2, latent=8)
            >>> codes = torch.linspace(-2, 2, 5)[:, None] * torch.eye(8)[0]  # the first mode, in SD
            >>> network.decode(codes, torch.rand(1, 1, 24, 20).expand(5, 1, 24, 20)).shape
            torch.Size([5, 2, 12, 10])
        """
        padded = pad_to_multiple(moving, self.multiple)
        x = self.unfold(code).unflatten(1, (-1, *[CELLS] * (moving.ndim - 2)))
        for index, layer in enumerate(self.decoder):
            size = [n * 2**index // self.multiple for n in padded.shape[2:]]
            x = layer(torch.cat([resize(x, size), F.interpolate(padded, size=size, mode="area")], dim=1))
        return crop(self.head(x), half_shape(moving.shape[2:]))

    def forward(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """Map two images (B, inputs, *shape) to (B, outputs, *half)."""
        self.terms = {}
        mean, log_variance = self.encode(fixed, moving)
        code = mean
        if self.training:
            divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum(1) / 2
            self.terms = {"kl": self.kl_weight * divergence.mean()}
            if self.sampling:
                code = mean + (log_variance / 2).exp() * torch.randn_like(mean)
        return self.decode(code, moving)


cvae = Network(
    ConditionalVAE,
    "Velocities of a low-dimensional code (conditional variational autoencoder). For modes of variation.",
)
