"""A network whose weights another network computes from the regularizers' weight."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from atlasmith.networks.blocks import single_precision
from atlasmith.networks.registration.base import (
    FactorRange,
    HighestFactor,
    LowestFactor,
    Network,
    RegistrationNetwork,
)
from atlasmith.networks.registration.unets import StridedUNet


class HyperMorph(RegistrationNetwork):
    """Build a U-Net that predicts for any weight of the regularizers, chosen after training.

    (HyperMorph, Hoopes et al. 2021, arXiv:2101.01035.) Each training step draws a factor of the weights, of
    which a hypernetwork of fully connected layers computes all weights of `StridedUNet`. What the last layer
    computes is divided by the root of its number of inputs, which limits by how much a step of Adam changes
    the U-Net's weights. The factor is uniform in its logarithm here; they draw the share of the
    regularizers in the objective, from 0 to 1. Their hypernetwork has six layers of 128 units.

    Args:
        ndim: As in `Network`.
        inputs: As in `Network`.
        outputs: As in `Network`.
        channels: As in `Network`.
        lowest_factor: Lowest factor of the regularizers' weights; the template is refined for a factor of 1.
        highest_factor: Highest factor.
        layers: Layers of the hypernetwork before the last one.
        units: Units of these.
    """

    def __init__(
        self,
        ndim: int,
        inputs: int,
        outputs: int,
        channels: Sequence[int] = (16, 32, 32, 32),
        lowest_factor: LowestFactor = 0.1,
        highest_factor: HighestFactor = 10.0,
        layers: int = 4,
        units: int = 16,
    ) -> None:
        super().__init__()
        self.factors = FactorRange(lowest_factor, highest_factor)
        pairs = itertools.pairwise([1, *[units] * layers])
        self.hidden = nn.Sequential(*(layer for a, b in pairs for layer in (nn.Linear(a, b), nn.ReLU())))
        # The U-Net's own weights are the biases of the hypernetwork's last layer, and these its matrix.
        self.unet = StridedUNet(ndim, inputs, outputs, channels)
        self.effects = nn.ParameterList(
            nn.Parameter(torch.randn(weight.numel(), units) * weight.std(correction=0))
            for weight in self.unet.parameters()
        )

    def forward(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """Map two images (B, inputs, *shape) to (B, outputs, *half)."""
        with single_precision(fixed):
            features = self.hidden(self.factor_position(fixed))[0]
            features = features / len(features) ** 0.5
            weights = {
                name: weight + (effect @ features).view_as(weight)
                for (name, weight), effect in zip(self.unet.named_parameters(), self.effects, strict=True)
            }
        result: Tensor = torch.func.functional_call(self.unet, weights, (fixed, moving))
        return result


hypermorph = Network(
    HyperMorph,
    "`unet_half` whose weights depend on the regularizers' weight (HyperMorph). To choose it after training.",
)
