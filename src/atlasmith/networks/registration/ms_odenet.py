"""A learned optimizer, integrated in time at each level of a pyramid of features."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from atlasmith.networks.blocks import conv_block, head
from atlasmith.networks.registration.base import Network
from atlasmith.networks.registration.coarse_to_fine import CoarseToFine, Joined


class MSODENet(CoarseToFine):
    """Build one encoder for both images, and levels that each integrate an ordinary differential equation.

    (MS-ODENet, Xu et al. 2021, arXiv:2106.08493.) Where an optimizer would follow a gradient, a network gives
    the output's derivative with respect to the time of optimization, from 0 to 1 at each level, given the
    fixed image's features and the moving image's as warped by the output so far. Euler's method integrates
    it. The attribute `steps` may be changed after training: more steps converge to the equation's solution.
    Unlike theirs the derivative doesn't depend on the time, and the unknown is any parametrization's
    coefficients.

    Args:
        ndim: As in `Network`.
        inputs: Likewise.
        outputs: Likewise.
        channels: Likewise.
        steps: Steps of the integration at each level.
    """

    def __init__(
        self,
        ndim: int,
        inputs: int,
        outputs: int,
        channels: Sequence[int] = (16, 32, 32, 32),
        steps: int = 2,
    ) -> None:
        def level(finer: int, width: int) -> nn.Module:
            return Joined(conv_block(ndim, 2 * width, width), head(ndim, width, outputs, bounded=True))

        super().__init__(ndim, inputs, outputs, channels, level)
        self.steps = steps

    def at_level(
        self, level: nn.Module, fixed: Tensor, moving: Tensor, output: Tensor, half: Sequence[int]
    ) -> Tensor:
        """Integrate the output at a level."""
        for _ in range(self.steps):
            moved = self.warp_by_output(moving, output, half)
            output = output + self.increment(level, fixed, moved, output) / self.steps
        return output


ms_odenet = Network(
    MSODENet,
    "A learned optimizer, integrated in steps (MS-ODENet). For large displacements.",
)
