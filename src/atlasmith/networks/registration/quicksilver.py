"""An encoder for each image, and a decoder for each component of the output."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from atlasmith.core.choices import Share
from atlasmith.core.sampling import half_shape, resize
from atlasmith.networks.blocks import conv_block, crop, head, pad_to_multiple, plain_block
from atlasmith.networks.registration.base import Network, RegistrationNetwork


class _Prediction(nn.Module):
    """Two encoders, and `ndim` decoders without skip connections: arguments of `Quicksilver`."""

    def __init__(self, ndim: int, inputs: int, outputs: int, channels: Sequence[int], dropout: float) -> None:
        super().__init__()
        self.multiple = 2 ** len(channels)

        def pair(first: nn.Module, second: nn.Module) -> nn.Sequential:
            return nn.Sequential(first, nn.Dropout(dropout), second, nn.Dropout(dropout))

        def encoder() -> nn.Sequential:
            widths = itertools.pairwise([inputs, *channels])
            return nn.Sequential(
                *(pair(conv_block(ndim, a, b, 2), conv_block(ndim, b, b)) for a, b in widths)
            )

        def decoder() -> nn.ModuleList:
            widths = itertools.pairwise([2 * channels[-1], *reversed(channels)])
            layers = [pair(plain_block(ndim, a, b), plain_block(ndim, b, b)) for a, b in widths]
            return nn.ModuleList([*layers, head(ndim, channels[0], outputs // ndim, bounded=True)])

        self.fixed_encoder, self.moving_encoder = encoder(), encoder()
        self.decoders = nn.ModuleList(decoder() for _ in range(ndim))

    def forward(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """Map two images (B, inputs, *shape) to (B, outputs, *half)."""
        padded = [pad_to_multiple(x, self.multiple) for x in (fixed, moving)]
        code = torch.cat([self.fixed_encoder(padded[0]), self.moving_encoder(padded[1])], dim=1)
        components = []
        for decoder in self.decoders:
            first, *middle, last = decoder.children()
            x = first(code)
            for layer in middle:
                x = layer(resize(x, [2 * n for n in x.shape[2:]]))
            components.append(last(x))
        # (B, outputs / ndim, ndim, *half): each decoder has one component of every vector.
        return crop(torch.stack(components, dim=2).flatten(1, 2), half_shape(fixed.shape[2:]))


class Quicksilver(RegistrationNetwork):
    """Build an encoder for each image and a decoder for each component, without skip connections.

    (Yang et al. 2017, doi:10.1016/j.neuroimage.2017.07.008.) Theirs predicts initial momenta, patch by patch;
    this one takes the whole image at half resolution, and gives momenta where they are the parametrization.
    Theirs has widths of 64 and 128, and no norms; here the encoders have them, since without any the training
    diverges at high learning rates.

    Args:
        ndim: As in `Network`.
        inputs: As in `Network`.
        outputs: As in `Network`.
        channels: As in `Network`.
        correction: Whether a second network, from the moving image as warped by the first one's output, adds
            to that.
        dropout: Probability with which a value is zeroed in training. Outputs that are sampled in training
            mode are those of the paper's Bayesian variant.
    """

    def __init__(
        self,
        ndim: int,
        inputs: int,
        outputs: int,
        channels: Sequence[int] = (16, 32),
        correction: bool = False,
        dropout: Share = 0.0,
    ) -> None:
        super().__init__()
        self.prediction = _Prediction(ndim, inputs, outputs, channels, dropout)
        self.correction = _Prediction(ndim, inputs, outputs, channels, dropout) if correction else None

    def forward(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """Map two images (B, inputs, *shape) to (B, outputs, *half)."""
        output: Tensor = self.prediction(fixed, moving)
        if self.correction is None:
            return output
        moved = self.warp_by_output(moving, output, output.shape[2:])
        corrected: Tensor = output + self.correction(fixed, moved)
        return corrected


quicksilver = Network(
    Quicksilver,
    "A decoder for each component, without skip connections (Quicksilver). For momenta, with dropout.",
)
