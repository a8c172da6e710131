"""Networks whose levels, from coarse to fine, match the features of two images and add to the output."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from atlasmith.core.sampling import half_shape, resize
from atlasmith.networks.blocks import crop, pad_to_multiple, strided_blocks
from atlasmith.networks.registration.base import RegistrationNetwork


def encode(encoder: nn.ModuleList, x: Tensor) -> list[Tensor]:
    """Return the features after each level of an encoder."""
    features: list[Tensor] = []
    for level in encoder:
        x = level(x)
        features.append(x)
    return features


class Joined(nn.Sequential):
    """Apply modules in a row to the features of both images, joined as channels."""

    def forward(self, *features: Tensor) -> Tensor:
        """Map both features (B, width, *shape) to what is added to the output (B, outputs, *shape)."""
        result: Tensor = super().forward(torch.cat(features, dim=1))
        return result


class CoarseToFine(RegistrationNetwork):
    """Build an encoder for the images, and levels from coarse to fine that add to the output.

    Each level takes the fixed image's features, and the moving image's as warped by the output so far.

    Args:
        ndim: As in `Network`.
        inputs: As in `Network`.
        outputs: As in `Network`.
        channels: As in `Network`.
        level: From the number of finer levels and a width to the module for `increment`.
        shared: Whether one encoder serves both images (Siamese), or each image has its own (pseudo-Siamese).
    """

    def __init__(
        self,
        ndim: int,
        inputs: int,
        outputs: int,
        channels: Sequence[int],
        level: Callable[[int, int], nn.Module],
        shared: bool = True,
    ) -> None:
        super().__init__()
        self.outputs, self.multiple = outputs, 2 ** len(channels)
        self.encoder = nn.ModuleList(strided_blocks(ndim, inputs, channels))
        self.moving_encoder = None if shared else nn.ModuleList(strided_blocks(ndim, inputs, channels))
        self.levels = nn.ModuleList(level(finer, width) for finer, width in reversed([*enumerate(channels)]))

    def _features(self, fixed: Tensor, moving: Tensor) -> list[tuple[Tensor, ...]]:
        """The features of both images at each level, finest first."""
        if self.moving_encoder is None:
            return [x.chunk(2) for x in encode(self.encoder, torch.cat([fixed, moving]))]
        return list(zip(encode(self.encoder, fixed), encode(self.moving_encoder, moving), strict=True))

    def increment(self, level: nn.Module, fixed: Tensor, moved: Tensor, output: Tensor) -> Tensor:
        """Compute what a level adds to the output.

        Args:
            level: Its module.
            fixed: Features of the fixed image (B, width, *shape).
            moved: Features of the moving image, warped by the output so far.
            output: The output so far (B, outputs, *shape).

        Returns:
            (B, outputs, *shape); by default of a module that maps both features.
        """
        result: Tensor = level(fixed, moved)
        return result

    def at_level(
        self, level: nn.Module, fixed: Tensor, moving: Tensor, output: Tensor, half: Sequence[int]
    ) -> Tensor:
        """Compute the output after a level.

        Args:
            level: Its module.
            fixed: Features of the fixed image (B, width, *shape).
            moving: Likewise of the moving image.
            output: The output before the level (B, outputs, *shape).
            half: Size of the finest level.

        Returns:
            (B, outputs, *shape); by default the sum of `output` and an `increment`.
        """
        moved = self.warp_by_output(moving, output, half)
        return output + self.increment(level, fixed, moved, output)

    def forward(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """Map two images (B, inputs, *shape) to (B, outputs, *half)."""
        features = self._features(*(pad_to_multiple(x, self.multiple) for x in (fixed, moving)))
        half, coarsest = features[0][0].shape[2:], features[-1][0]
        output = coarsest.new_zeros(len(fixed), self.outputs, *coarsest.shape[2:])
        for level, (target, image) in zip(self.levels, reversed(features), strict=True):
            output = self.at_level(level, target, image, resize(output, target.shape[2:]), half)
        return crop(output, half_shape(fixed.shape[2:]))
