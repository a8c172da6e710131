"""Networks at increasing resolution, each of which adds to the output."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atlasmith.core.fields import per_channel
from atlasmith.core.sampling import half_shape, resize
from atlasmith.networks.blocks import CONVOLUTION, SLOPE, conv_block, head
from atlasmith.networks.registration.base import (
    VELOCITY_SCALE,
    FactorRange,
    HighestFactor,
    LowestFactor,
    Network,
    RegistrationNetwork,
)


class _Residual(nn.Module):
    """Two blocks and a skip connection; with a code of some size, norms whose scale and shift it gives."""

    def __init__(self, ndim: int, channels: int, code: int) -> None:
        super().__init__()
        self.body = nn.Sequential(conv_block(ndim, channels, channels), conv_block(ndim, channels, channels))
        self.styles = nn.ModuleList(nn.Linear(code, 2 * channels) for _ in self.body) if code else None

    def forward(self, x: Tensor, code: Tensor | None) -> Tensor:
        features = x
        for index, block in enumerate(self.body):
            convolution, norm, activation = block.children()
            features = norm(convolution(features))
            if code is not None and self.styles is not None:
                style = self.styles[index](code)
                scale, shift = style.view(1, -1, *[1] * (x.ndim - 2)).chunk(2, dim=1)
                features = features * (1 + scale) + shift
            features = activation(features)
        return x + features


class _Level(nn.Module):
    """The network of one level; features of the coarser level are added to its own, if it has `coarser`."""

    def __init__(self, ndim: int, inputs: int, outputs: int, width: int, coarser: int, code: int) -> None:
        super().__init__()
        self.first = conv_block(ndim, inputs, width)
        self.skip = CONVOLUTION[ndim](coarser, width, 1) if coarser else None
        self.body = nn.ModuleList(_Residual(ndim, width, code) for _ in range(2))
        self.head = head(ndim, width, outputs, bounded=True)

    def forward(self, x: Tensor, coarser: Tensor | None, code: Tensor | None) -> tuple[Tensor, Tensor]:
        """Map images and the output so far to what is added to it, and features."""
        x = self.first(x)
        if self.skip is not None and coarser is not None:
            x = x + self.skip(resize(coarser, x.shape[2:]))
        for block in self.body:
            x = block(x, code)
        return self.head(x), x


class Pyramid(RegistrationNetwork):
    """Build networks for the images at an eighth, a quarter and half their size, trained together.

    Each level takes the moving image warped by the output so far, and adds to it (MJ-CNN, Jiang et al. 2020,
    Physics in Medicine and Biology). With `corrections` further networks follow at each size, which take the
    image as warped by the first one's prediction (PC-Reg, Yin et al. 2023, Medical Image Analysis). `LapIRN`
    trains the levels one after the other.

    Args:
        ndim: As in `Network`.
        inputs: As in `Network`.
        outputs: As in `Network`.
        channels: As in `Network`.
        corrections: Number of further networks at each size.
        skips: Add the features of each network to those of the next one.
    """

    code_size = 0  # of what the norms depend on; 0: on nothing

    def __init__(
        self,
        ndim: int,
        inputs: int,
        outputs: int,
        channels: Sequence[int] = (8, 16, 32),
        corrections: int = 0,
        skips: bool = False,
    ) -> None:
        super().__init__()
        self.outputs, self.sizes, self.repeats = outputs, len(channels), 1 + corrections
        widths = [width for width in reversed(channels) for _ in range(self.repeats)]
        coarser = [0, *widths] if skips else [0] * len(widths)
        self.levels = nn.ModuleList(
            _Level(ndim, 2 * inputs + outputs, outputs, width, before, self.code_size)
            for width, before in zip(widths, coarser, strict=False)
        )
        self.active, self.frozen = len(self.levels), False

    def code(self, like: Tensor) -> Tensor | None:
        """Return what the norms depend on (1, code_size), on the device of `like`; None: on nothing."""
        return None

    def increment(self, output: Tensor, half: Sequence[int]) -> Tensor:
        """Return what a level adds to the output: what its network computes (B, outputs, *shape)."""
        return output

    def forward(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """Map two images (B, inputs, *shape) to (B, outputs, *half)."""
        sizes = [half_shape(fixed.shape[2:])]
        while len(sizes) < self.sizes:
            sizes.insert(0, [max(n, 2) for n in half_shape(sizes[0])])
        half, features, code = sizes[-1], None, self.code(fixed)
        output = fixed.new_zeros(len(fixed), self.outputs, *sizes[0])
        each = [size for size in sizes for _ in range(self.repeats)]
        for index, (level, size) in enumerate(zip(self.levels, each, strict=True), start=1):
            if self.frozen and index == self.active and features is not None:
                output, features = output.detach(), features.detach()
            output = resize(output, size)  # so too at levels to come: their start doesn't change it
            if index <= self.active:
                target, image = (F.interpolate(x, size=size, mode="area") for x in (fixed, moving))
                moved = self.warp_by_output(image, output, half)
                added, features = level(torch.cat([target, moved, output], dim=1), features, code)
                output = output + self.increment(added, half)
        return output


def level_phase(progress: float, levels: int) -> float:
    """Divide a training into phases, one for each level.

    The finest level takes half of the steps, and the others share the rest equally.

    Args:
        progress: As in `RegistrationNetwork.schedule`.
        levels: Number of levels, 2 or more.

    Returns:
        The index of the phase, 0 for the coarsest level, plus the share of it that is done; below `levels`.

    Example:
        >>> [level_phase(progress, 3) for progress in (0.0, 0.375, 0.5, 0.75)]
        [0.0, 1.5, 2.0, 2.5]
    """
    coarser = levels - 1
    phase = 2 * coarser * progress if progress < 0.5 else coarser + 2 * progress - 1
    return min(phase, levels - 1e-6)


class LapIRN(Pyramid):
    """Build a Laplacian pyramid, whose levels are trained one after the other, the coarsest first.

    (LapIRN, Mok and Chung 2020, arXiv:2006.16148.) The training of the finest level takes half of the steps,
    and the others share the rest equally. A level starts near zero, so that it starts from the solution of
    the coarser ones; these are frozen in the first part of its training, as they published it. What a level
    adds is bounded: `flow_range` is its limit in units of half the image's size.

    Until the finest level is trained the output is that of the last level so far, interpolated. The images
    are compared at their own resolution in all phases; theirs are compared at the resolution of the level, as
    a sum of correlations with windows of 3 to 7 voxels at all coarser ones.

    Args:
        ndim: As in `Network`.
        inputs: As in `Network`.
        outputs: As in `Network`.
        channels: As in `Network`.
        frozen_share: Share of a level's steps in which the coarser ones don't change.
        flow_range: Bound of what a level adds to the first displacement or velocity of the output.
    """

    def __init__(
        self,
        ndim: int,
        inputs: int,
        outputs: int,
        channels: Sequence[int] = (8, 16, 32),
        frozen_share: float = 0.05,
        flow_range: float = 0.4,
    ) -> None:
        super().__init__(ndim, inputs, outputs, channels, skips=True)
        self.frozen_share, self.flow_range = frozen_share, flow_range

    def schedule(self, progress: float) -> None:
        """Train the levels one after the other: see `RegistrationNetwork`."""
        phase = level_phase(progress, len(self.levels))
        self.active = int(phase) + 1
        self.frozen = self.active > 1 and phase - int(phase) < self.frozen_share

    def increment(self, output: Tensor, half: Sequence[int]) -> Tensor:
        """Bound the first field of what a level computes by a softsign."""
        limits = [self.flow_range * max(n - 1, 1) / 2 / VELOCITY_SCALE for n in half]
        limit = per_channel(limits, output)
        field, *others = output.split([len(half), output.shape[1] - len(half)], dim=1)
        return torch.cat([limit * F.softsign(field / limit), *others], dim=1)


class ConditionalLapIRN(LapIRN):
    """Build a Laplacian pyramid that predicts for any weight of the regularizers, chosen after training.

    (cLapIRN, Mok and Chung 2021, arXiv:2106.12673.) Each training step draws a factor of the weights; a small
    network of it scales and shifts what the instance norms of the residual blocks return. The factor is
    uniform in its logarithm here, where they draw a weight from 0 to 10.

    Args:
        ndim: As in `Network`.
        inputs: As in `Network`.
        outputs: As in `Network`.
        channels: As in `Network`.
        lowest_factor: Lowest factor of the regularizers' weights; the template is refined for a factor of 1.
        highest_factor: Highest factor.
        frozen_share: As in `LapIRN`.
        flow_range: As in `LapIRN`.
    """

    code_size = 64

    def __init__(
        self,
        ndim: int,
        inputs: int,
        outputs: int,
        channels: Sequence[int] = (8, 16, 32),
        lowest_factor: LowestFactor = 0.1,
        highest_factor: HighestFactor = 10.0,
        frozen_share: float = 0.05,
        flow_range: float = 0.4,
    ) -> None:
        super().__init__(ndim, inputs, outputs, channels, frozen_share, flow_range)
        self.factors = FactorRange(lowest_factor, highest_factor)
        self.mapping = nn.Sequential(
            *(nn.Linear(1, self.code_size), nn.LeakyReLU(SLOPE)),
            *(nn.Linear(self.code_size, self.code_size), nn.LeakyReLU(SLOPE)),
        )

    def code(self, like: Tensor) -> Tensor:
        """Map the factor to what the norms depend on (1, code_size)."""
        result: Tensor = self.mapping(self.factor_position(like))
        return result


pyramid = Network(
    Pyramid,
    "Networks at three resolutions (MJ-CNN; LapIRN's, trained together). For large displacements and little "
    "memory.",
)
lapirn = Network(
    LapIRN, "Networks at three resolutions, trained one after the other (LapIRN). For large displacements."
)
conditional_lapirn = Network(
    ConditionalLapIRN,
    "`lapirn` with norms that depend on the regularizers' weight (cLapIRN). To choose it after training.",
)
