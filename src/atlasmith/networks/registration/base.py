"""The kind of entry that NETWORKS holds, and what its networks share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from atlasmith.core.choices import Choice, Fraction, Range
from atlasmith.core.errors import AtlasmithError
from atlasmith.core.fields import compose_velocities, exponentiate, per_channel, resize_displacement
from atlasmith.core.sampling import warp
from atlasmith.networks.blocks import single_precision

# With a scale of 1, a network that starts near the identity spends many steps on growing its last weights.
VELOCITY_SCALE = 4.0
END_SHARE = 0.2  # of the training steps that take an end of a `FactorRange`
INTEGRATION_STEPS = 5  # of velocities within a network

# From coefficients (B, channels, *shape) of a deformation, in half-resolution voxels, and the size (d) of
# these in voxels of the coefficients' own grid, to the displacement (B, d, *shape) in the latter.
Displace = Callable[[Tensor, Sequence[float]], Tensor]
# From those of the map that is applied last, those of the map that is applied first, and the same sizes, to
# those of the composition. Channels that aren't coefficients are those of the latter map.
Compose = Callable[[Tensor, Tensor, Sequence[float]], Tensor]

# Settings of networks that are trained for a `FactorRange`, which holds 1: templates are refined for that.
LowestFactor = Fraction
HighestFactor = Annotated[float, Range("above 1", lambda x: x > 1)]


@dataclass(frozen=True)
class Network(Choice[nn.Module]):
    """Declare a registration network: the deformation between two images.

    The function builds a module from (ndim, inputs, outputs, channels): 2 or 3, the channels of an image, the
    channels of the output, and, with a default, the widths of the levels, finest first; then from settings,
    as in `Choice`. The module maps a fixed and a moving image (B, inputs, *shape), of any size, to
    (B, outputs, *half), half the size rounded up: the coefficients of a parametrization on the
    half-resolution grid, in units of VELOCITY_SCALE of its voxels, by default those of a stationary velocity.
    It starts near zero.

    A module that warps by what it has computed so far, or whose training has terms or phases of its own, is a
    `RegistrationNetwork`.
    """


def _exponential(coefficients: Tensor, sizes: Sequence[float]) -> Tensor:
    """Displacement (B, d, *shape) of the stationary velocity in the first d channels: see `Displace`."""
    velocity = coefficients[:, : len(sizes)]
    return exponentiate(per_channel(sizes, velocity) * velocity, INTEGRATION_STEPS)


def _composed_velocities(outer: Tensor, inner: Tensor, sizes: Sequence[float]) -> Tensor:
    """Composition of the stationary velocities in the first d channels: see `Compose`."""
    units, ndim = per_channel(sizes, outer), len(sizes)
    velocity = compose_velocities(units * outer[:, :ndim], units * inner[:, :ndim]) / units
    return torch.cat([velocity, inner[:, ndim:]], dim=1)


@dataclass(frozen=True)
class FactorRange:
    """The factors of the regularizers' weights for which a network is trained.

    Args:
        lowest: Above 0.
        highest: Above `lowest`.

    Example:
        >>> FactorRange(0.1, 10.0).position(1.0)
        0.0
    """

    lowest: float
    highest: float

    def draw(self, random: torch.Generator) -> float:
        """Draw a factor, uniform in its logarithm, for a training step.

        The ends are drawn more often, as Hoopes et al. 2021 do: beyond them nothing is learned.
        """
        share, end = torch.rand(2, generator=random).tolist()
        if end < END_SHARE:
            share = float(end < END_SHARE / 2)
        return self.lowest * (self.highest / self.lowest) ** share

    def position(self, factor: float) -> float:
        """Return where the logarithm of a factor lies, from -1 at the lowest to 1 at the highest."""
        return 2 * math.log(factor / self.lowest) / math.log(self.highest / self.lowest) - 1

    def check(self, factor: float) -> None:
        """Raise `AtlasmithError` for a factor that the network isn't trained for."""
        if not self.lowest <= factor <= self.highest:
            raise AtlasmithError(
                f"the network is trained for factors of the regularizers' weights from {self.lowest:g} to "
                f"{self.highest:g}, and {factor:g} was asked for. Give one of these."
            )


class RegistrationNetwork(nn.Module):
    """Give networks what the model and its training share with them.

    Attributes:
        factors: Of the regularizers' weights, for each of which the network predicts; None: it predicts for
            the weights that it is trained with.
        factor: That for which it predicts, 1 at first.
        displace: How coefficients of the model's parametrization become a displacement; the model sets it.
        compose: Likewise how they are composed.
        terms: Further terms of the training objective, weighted, by name, which `forward` fills in training
            mode; empty otherwise.
    """

    factors: FactorRange | None
    displace: Displace
    compose: Compose
    terms: dict[str, Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.factors, self.factor = None, 1.0
        self.displace, self.compose, self.terms = _exponential, _composed_velocities, {}

    def schedule(self, progress: float) -> None:
        """Enter the phase of training in which a step lies, before it.

        Args:
            progress: The share of the training's steps before this one, 0 to 1.
        """

    def factor_position(self, like: Tensor) -> Tensor:
        """Return the position (1, 1) of `factor` within `factors`, -1 to 1, on the device of `like`."""
        assert self.factors is not None  # asked by networks that have them
        return torch.full((1, 1), self.factors.position(self.factor), device=like.device)

    def displacement(self, output: Tensor, half: Sequence[int]) -> Tensor:
        """Compute the displacement of an output so far.

        Args:
            output: (B, outputs, *shape), in units of VELOCITY_SCALE half-resolution voxels, on a grid of any
                size whose corner voxels are those of the half-resolution grid.
            half: Size of the half-resolution grid.

        Returns:
            The displacement (B, d, *shape), voxels of the output's grid.
        """
        return self.displace(VELOCITY_SCALE * output.float(), _voxel_sizes(output, half))

    def warp_by_output(self, image: Tensor, output: Tensor, half: Sequence[int]) -> Tensor:
        """Warp images or features by an output.

        Args:
            image: (B, C, *size), on a grid of any size with the corner voxels of the output's.
            output: As in `displacement`.
            half: Likewise.

        Returns:
            (B, C, *size).
        """
        displacement = resize_displacement(self.displacement(output, half), image.shape[2:])
        return warp(image.float(), displacement)

    def composed(self, outer: Tensor, inner: Tensor, half: Sequence[int]) -> Tensor:
        """Compose outputs as the model does.

        Args:
            outer: Output (B, outputs, *shape) of the map that is applied last: see `displacement`.
            inner: Likewise of the map that is applied first.
            half: Size of the half-resolution grid.

        Returns:
            The output (B, outputs, *shape) of the composition. What isn't coefficients of the model's
            parametrization, such as a log-variance, is that of `inner`.
        """
        first, last = (VELOCITY_SCALE * x.float() for x in (inner, outer))
        with single_precision(outer):
            return self.compose(last, first, _voxel_sizes(outer, half)) / VELOCITY_SCALE


def _voxel_sizes(output: Tensor, half: Sequence[int]) -> list[float]:
    """Size (d) of half-resolution voxels in those of an output (B, outputs, *shape)."""
    # Along an axis of one voxel nothing is warped, whatever the size.
    return [max(n - 1, 1) / max(m - 1, 1) for n, m in zip(output.shape[2:], half, strict=True)]
