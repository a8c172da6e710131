"""The kind of entry that NETWORKS holds, and what its networks share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from atlasmith.core.choices import Choice
from atlasmith.core.fields import exponentiate, per_channel
from atlasmith.core.sampling import warp

# With a scale of 1, a network that starts near the identity spends many steps on growing its last weights.
VELOCITY_SCALE = 4.0
INTEGRATION_STEPS = 5  # of velocities within a network

# From coefficients (B, channels, *shape) of a deformation, in half-resolution voxels, and the size (d) of
# these in voxels of the coefficients' own grid, to the displacement (B, d, *shape) in the latter.
Displace = Callable[[Tensor, Sequence[float]], Tensor]


@dataclass(frozen=True)
class Network(Choice[nn.Module]):
    """Declare a registration network: the deformation between two images.

    The function builds a module from (ndim, inputs, outputs, channels): 2 or 3, the channels of an image, the
    channels of the output, and, with a default, the widths of the levels, finest first; then from settings,
    as in `Choice`. The module maps a fixed and a moving image (B, inputs, *shape), of any size, to
    (B, outputs, *half), half the size rounded up: the coefficients of a parametrization on the half-resolution
    grid, in units of VELOCITY_SCALE of its voxels, by default those of a stationary velocity. It starts near
    zero.

    A module that warps by what it has computed so far, or whose training has terms or phases of its own, is a
    `RegistrationNetwork`.
    """


def _exponential(coefficients: Tensor, sizes: Sequence[float]) -> Tensor:
    """Displacement (B, d, *shape) of the stationary velocity in the first d channels: see `Displace`."""
    velocity = coefficients[:, : len(sizes)]
    return exponentiate(per_channel(sizes, velocity) * velocity, INTEGRATION_STEPS)


class RegistrationNetwork(nn.Module):
    """Give networks what the model and its training share with them.

    Attributes:
        displace: How the coefficients of the model's parametrization become a displacement; the model sets it.
        terms: Further terms of the training objective, weighted, by name, which `forward` fills in training
            mode; empty otherwise.
    """

    displace: Displace
    terms: dict[str, Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.displace, self.terms = _exponential, {}

    def schedule(self, progress: float) -> None:
        """Enter the phase of training in which a step lies, before it.

        Args:
            progress: The share of the training's steps before this one, 0 to 1.
        """

    def displacement(self, output: Tensor, half: Sequence[int]) -> Tensor:
        """Compute the displacement of an output so far.

        Args:
            output: (B, outputs, *shape), in units of VELOCITY_SCALE half-resolution voxels, on a grid of any
                size whose corner voxels are those of the half-resolution grid.
            half: Size of the half-resolution grid.

        Returns:
            The displacement (B, d, *shape), voxels of the output's grid.
        """
        shape = output.shape[2:]
        sizes = [(n - 1) / max(m - 1, 1) for n, m in zip(shape, half, strict=True)]
        return self.displace(VELOCITY_SCALE * output.float(), sizes)

    def warp_by_output(self, image: Tensor, output: Tensor, half: Sequence[int]) -> Tensor:
        """Warp images or features (B, C, *shape) by an output (B, outputs, *shape): see `displacement`."""
        return warp(image.float(), self.displacement(output, half))
