"""Two networks, one for each direction, whose deformations undo each other."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from atlasmith.networks.registration.base import Network, RegistrationNetwork
from atlasmith.networks.registration.unets import StridedUNet


class CycleMorph(RegistrationNetwork):
    """Build a network from each image to the other one, trained with cycle and identity terms.

    (CycleMorph, Kim et al. 2021, doi:10.1016/j.media.2021.102036.) The cycle term is the mean absolute
    difference of each image from itself warped by one network and then, from there, by the other one; the
    identity term that from itself warped by the network of two equal images. The second network serves
    training alone, and the similarity is that of the first one's direction. With stationary velocities the
    inverse is exact without it.

    Args:
        ndim: As in `Network`.
        inputs: As in `Network`.
        outputs: As in `Network`.
        channels: As in `Network`.
        cycle: Weight of the cycle term.
        identity: Weight of the identity term.
    """

    def __init__(
        self,
        ndim: int,
        inputs: int,
        outputs: int,
        channels: Sequence[int] = (16, 32, 32, 32),
        cycle: float = 0.1,
        identity: float = 0.5,
    ) -> None:
        super().__init__()
        self.cycle, self.identity = cycle, identity
        self.network = StridedUNet(ndim, inputs, outputs, channels)
        self.reverse = StridedUNet(ndim, inputs, outputs, channels)

    def forward(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """Map two images (B, inputs, *shape) to (B, outputs, *half)."""
        output: Tensor = self.network(fixed, moving)
        self.terms = {}
        if self.training:
            moved, returned = self._warped(moving, output), self._warped(fixed, self.reverse(moving, fixed))
            pairs = {
                "cycle": (
                    (moving, self._warped(moved, self.reverse(moving, moved))),
                    (fixed, self._warped(returned, self.network(fixed, returned))),
                ),
                "identity": (
                    (fixed, self._warped(fixed, self.network(fixed, fixed))),
                    (moving, self._warped(moving, self.reverse(moving, moving))),
                ),
            }
            for (name, differences), weight in zip(pairs.items(), (self.cycle, self.identity), strict=True):
                losses = [(expected - found).abs().mean() for expected, found in differences]
                self.terms[name] = weight * (losses[0] + losses[1])
        return output

    def _warped(self, image: Tensor, output: Tensor) -> Tensor:
        """Images (B, inputs, *shape) warped by an output (B, outputs, *half)."""
        return self.warp_by_output(image, output, output.shape[2:])


cyclemorph = Network(
    CycleMorph, "Two U-Nets with cycle and identity terms (CycleMorph). To compare with CycleMorph."
)
