"""The kind of entry that NETWORKS holds, and what its networks share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from atlasmith.core.choices import Choice
from atlasmith.core.fields import exponentiate, per_channel
from atlasmith.core.sampling import warp

# With a scale of 1, a network that starts near the identity spends many steps on growing its last weights.
VELOCITY_SCALE = 4.0
INTEGRATION_STEPS = 5  # of velocities within a network


@dataclass(frozen=True)
class Network(Choice[nn.Module]):
    """Declare a registration network: the velocity between two images.

    The function builds a module from (ndim, inputs, outputs, channels): 2 or 3, the channels of an image, the
    channels of the output, and, with a default, the widths of the levels, finest first. The module maps a
    fixed and a moving image (B, inputs, *shape), of any size, to (B, outputs, *half), half the size rounded
    up. The first `ndim` channels are a velocity on the half-resolution grid, in units of VELOCITY_SCALE of
    its voxels. It starts near zero.
    """


def warp_by_output(image: Tensor, output: Tensor, half: Sequence[int]) -> Tensor:
    """Warp an image by the velocity that a network has computed so far.

    Args:
        image: (B, C, *shape).
        output: The network's output (B, outputs, *shape), in units of VELOCITY_SCALE half-resolution voxels.
        half: Size of the half-resolution grid.

    Returns:
        The warped image (B, C, *shape).
    """
    shape = output.shape[2:]
    sizes = [(n - 1) / max(m - 1, 1) for n, m in zip(shape, half, strict=True)]
    units = per_channel([VELOCITY_SCALE * size for size in sizes], output)
    return warp(image.float(), exponentiate(units * output[:, : len(shape)].float(), INTEGRATION_STEPS))
