"""Networks applied one after the other, each with its own weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atlasmith.core.fields import compose, per_channel
from atlasmith.core.sampling import coordinates, half_shape
from atlasmith.networks.blocks import BOUNDED_WEIGHTS, pad_to_multiple, single_precision, strided_blocks
from atlasmith.networks.registration.base import Network, RegistrationNetwork
from atlasmith.networks.unet import UNet


class AffineStage(nn.Module):
    """Build a network from images to a velocity that is affine in the coordinates.

    The exponential of the velocity A x + t is an affine map whose matrix logarithm has these parameters: its
    determinant is positive, and its inverse is that of the negative velocity.

    Args:
        ndim: 2 or 3.
        inputs: Channels of the images.
        outputs: As in `Network`.
        channels: As in `Network`.
    """

    cells = 4  # of each axis, over which features are averaged

    def __init__(self, ndim: int, inputs: int, outputs: int, channels: Sequence[int]) -> None:
        super().__init__()
        self.outputs, self.multiple = outputs, 2 ** len(channels)
        self.encoder = nn.Sequential(*strided_blocks(ndim, inputs, channels))
        self.pool = {2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}[ndim](self.cells)
        features = channels[-1] * self.cells**ndim
        self.parameters_of = nn.Linear(features, ndim * (ndim + 1))
        self.scale = min(1.0, BOUNDED_WEIGHTS / features)  # as a bounded `head`
        for parameter in self.parameters_of.parameters():
            nn.init.normal_(parameter, std=1e-6)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, inputs, *shape) to (B, outputs, *half), zero but for the first field."""
        half = half_shape(images.shape[2:])
        x = self.pool(self.encoder(pad_to_multiple(images, self.multiple)))
        with single_precision(x):
            found = self.parameters_of(self.scale * x.flatten(1).float()).unflatten(1, (len(half), -1))
            grid = coordinates(half, found)
            # From -1 to 1 within the image, so that slopes and shifts matter alike.
            limits = per_channel([max(n - 1, 1) / 2 for n in half], grid)
            points = F.pad(grid / limits - 1, [0, 0] * len(half) + [0, 1], value=1.0)
            field = torch.einsum("bij,bj...->bi...", found, points.expand(len(found), *points.shape[1:]))
        return F.pad(field, [0, 0] * len(half) + [0, self.outputs - len(half)])


class Cascades(RegistrationNetwork):
    """Build U-Nets that are applied one after the other, each to the image as warped so far.

    (Recursive cascaded networks, Zhao et al. 2019, arXiv:1907.12353.) The deformations are composed as the
    parametrization has it, so that the image is always warped from the original, once. With an `affine` stage
    first these are VTN (Zhao et al. 2019, arXiv:1902.05020), whose penalties of the affine matrix are left
    out, since its determinant is positive here, and DLIR (de Vos et al. 2019, arXiv:1809.06130), whose
    B-splines are a parametrization here, and whose stages are trained together. One network that is applied
    several times with the same weights (RDVN, SRCN) is any network with `template.network.cascades`.

    Args:
        ndim: As in `Network`.
        inputs: As in `Network`.
        outputs: As in `Network`.
        channels: As in `Network`.
        count: Number of U-Nets.
        affine: Whether an affine stage precedes them.
        invertibility: Weight of VTN's invertibility term: the mean squared displacement, in half-resolution
            voxels, of the map between two images composed with that back. Where it isn't 0, training takes
            twice the time.
    """

    def __init__(
        self,
        ndim: int,
        inputs: int,
        outputs: int,
        channels: Sequence[int] = (8, 16, 32),
        count: int = 3,
        affine: bool = False,
        invertibility: float = 0.0,
    ) -> None:
        super().__init__()
        self.invertibility = invertibility
        self.stages = nn.ModuleList([AffineStage(ndim, 2 * inputs, outputs, channels)] if affine else [])
        for _ in range(count):
            self.stages.append(UNet(ndim, 2 * inputs, outputs, channels, first_stride=2, bounded=True))

    def forward(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """Map two images (B, inputs, *shape) to (B, outputs, *half)."""
        output = self._cascade(fixed, moving)
        self.terms = {}
        if self.training and self.invertibility:
            half = output.shape[2:]
            there, back = (self.displacement(x, half) for x in (output, self._cascade(moving, fixed)))
            remaining = (
                compose(there, back).square().sum(1).mean() + compose(back, there).square().sum(1).mean()
            )
            self.terms["invertibility"] = self.invertibility * remaining
        return output

    def _cascade(self, fixed: Tensor, moving: Tensor) -> Tensor:
        total: Tensor | None = None
        for stage in self.stages:
            moved = moving if total is None else self.warp_by_output(moving, total, total.shape[2:])
            output = stage(torch.cat([fixed, moved], dim=1)).float()
            total = output if total is None else self.composed(total, output, output.shape[2:])
        assert total is not None  # there is at least one stage
        return total


cascades = Network(
    Cascades,
    "U-Nets one after the other, each with its own weights (VTN, recursive cascades, DLIR). For large "
    "displacements; with `affine` for images that aren't aligned.",
)
