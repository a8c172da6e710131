"""A network for noise in images, from whose features another one computes the deformation."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atlasmith.core.sampling import half_shape
from atlasmith.networks.blocks import CONVOLUTION, NO_NORM, crop, single_precision
from atlasmith.networks.registration.base import Network, RegistrationNetwork
from atlasmith.networks.unet import UNet

# Logarithm of the image's share in the variance at the last step, for noise from 1e-6 to 1e-2 a step.
LOG_SIGNAL = -10.0


class _Guide(nn.Module):
    """Attention from the features of one decoder to those of another, whose cost is linear in the voxels.

    (Shen et al. 2021, arXiv:1812.01243.)
    """

    def __init__(self, ndim: int, width: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (CONVOLUTION[ndim](width, width, 1, bias=False) for _ in range(3))

    def forward(self, x: Tensor, guide: Tensor) -> Tensor:
        """Add to features (B, width, *shape) what they attend to in others of the same shape."""
        query = self.query(x).flatten(2).softmax(1)
        key, value = self.key(guide).flatten(2).softmax(2), self.value(guide).flatten(2)
        return x + (value @ key.mT @ query).view(x.shape)


class DiffuseMorph(RegistrationNetwork):
    """Build a denoising diffusion network, whose output is the input of a network for the deformation.

    (DiffuseMorph, Kim et al. 2022, arXiv:2112.05149.) The first, a U-Net, learns to tell noise from the fixed
    image, given both images, by the term `diffusion` in training: the mean squared error of the noise. Its
    output for the fixed image without noise, the latent image, and the moving image are what the second U-Net
    takes. The latent image scaled by eta, from 0 to 1, gives a path from the identity to the deformation: see
    `path`. Feature-wise guidance lets each level of the second decoder attend to the first one's, and
    score-wise guidance adds the term `score`, the squared difference of the images weighted by the magnitude
    of the noise that the first network finds (FSDiffReg, Qin and Li 2023, arXiv:2307.12035).

    Unlike theirs the networks work at half the size, the deformation in training is that of the image without
    noise, as in evaluation, and the second network's output without a latent image is subtracted, so that at
    eta = 0 nothing moves. FSDiffReg's decoders share an encoder, and its score weights the objective's own
    similarity.

    Args:
        ndim: As in `Network`.
        inputs: Likewise.
        outputs: Likewise.
        channels: Likewise, of both U-Nets.
        diffusion_weight: Weight of the term `diffusion`.
        feature_guidance: Whether there is feature-wise guidance.
        score_weight: Weight of the term `score`; 0: no score-wise guidance.
    """

    def __init__(
        self,
        ndim: int,
        inputs: int,
        outputs: int,
        channels: Sequence[int] = (16, 32, 32),
        diffusion_weight: float = 0.05,
        feature_guidance: bool = False,
        score_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.diffusion_weight, self.score_weight = diffusion_weight, score_weight
        # Without norms, which would remove what is constant in an image: the noise level.
        self.score = UNet(ndim, 3 * inputs + 1, inputs, channels, norm=NO_NORM)
        self.score.head = CONVOLUTION[ndim](channels[0], inputs, 3, padding=1)
        self.deformation = UNet(ndim, 2 * inputs, outputs, channels)
        guided = reversed(channels[:-1]) if feature_guidance else ()
        self.guides = nn.ModuleList(_Guide(ndim, width) for width in guided)

    def forward(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """Map two images (B, inputs, *shape) to (B, outputs, *half)."""
        output = self.path(fixed, moving, [1.0])[0]
        self.terms = self._training_terms(fixed, moving, output) if self.training else {}
        return output

    def path(self, fixed: Tensor, moving: Tensor, etas: Sequence[float]) -> list[Tensor]:
        """Compute the deformations for scales of the latent image, from 0, the identity, to 1, the whole one.

        Args:
            fixed: (B, inputs, *shape).
            moving: Likewise.
            etas: Scales of the latent image.

        Returns:
            For each scale the output (B, outputs, *half).
        """
        target, image = _halved(fixed, moving)
        features = self._score_features(target, target, image, target.new_zeros(len(target)))
        latent = crop(self.score.head(features[-1]), target.shape[2:])
        start = self._deform(image, latent, features, 0.0)
        return [self._deform(image, latent, features, eta) - start for eta in etas]

    def _score_features(self, noisy: Tensor, fixed: Tensor, moving: Tensor, level: Tensor) -> list[Tensor]:
        """Features of the first decoder for an image (B, inputs, *half) with noise of SD `level` (B)."""
        levels = level.view(-1, 1, *[1] * (noisy.ndim - 2)).expand(len(noisy), 1, *noisy.shape[2:])
        return self.score.features(torch.cat([noisy, fixed, moving, levels], dim=1))

    def _deform(self, image: Tensor, latent: Tensor, features: Sequence[Tensor], eta: float) -> Tensor:
        """Output of the second network for a scaled latent image (B, inputs, *half)."""
        guides = [
            partial(guide, guide=eta * feature.float())
            for guide, feature in zip(self.guides, features, strict=False)
        ]
        # In half precision the difference to the output without a latent image would be noise.
        with single_precision(image):
            decoded = self.deformation.features(torch.cat([image, eta * latent.float()], dim=1), guides)
            return crop(self.deformation.head(decoded[-1]), image.shape[2:])

    def _training_terms(self, fixed: Tensor, moving: Tensor, output: Tensor) -> dict[str, Tensor]:
        """The terms of the training objective, for noise of a random level in each fixed image."""
        target, image = _halved(fixed, moving)
        signal = torch.exp(LOG_SIGNAL * torch.rand(len(target), device=target.device).square())
        level = (1 - signal).sqrt()
        per_image = [-1] + [1] * (target.ndim - 1)
        noise = torch.randn_like(target)
        noisy = signal.sqrt().view(per_image) * target + level.view(per_image) * noise
        features = self._score_features(noisy, target, image, level)
        found = crop(self.score.head(features[-1]), target.shape[2:])
        terms = {"diffusion": self.diffusion_weight * (found - noise).square().mean()}
        if self.score_weight:
            moved = self.warp_by_output(image, output, target.shape[2:])
            weight = found.detach().abs()
            weight = weight / weight.mean(list(range(1, weight.ndim)), keepdim=True).clamp(min=1e-6)
            terms["score"] = self.score_weight * (weight * (target - moved).square()).mean()
        return terms


def _halved(fixed: Tensor, moving: Tensor) -> list[Tensor]:
    """Both images (B, inputs, *half), averaged."""
    size = half_shape(fixed.shape[2:])
    return [F.interpolate(x.float(), size=size, mode="area") for x in (fixed, moving)]


diffusemorph = Network(
    DiffuseMorph,
    "Deformation from a diffusion network's output (DiffuseMorph, FSDiffReg). For images with noise.",
)
