"""The uncertainty of a fused label, voxel by voxel.

Its components are the entropy of the label probabilities (Chen et al. 2024, arXiv:2403.05111), the
disagreement of the atlases, and the residual of their registration.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from atlasmith.fusion.aligned import AlignedAtlases
from atlasmith.fusion.fuser import LabelProbabilities, LabelProbability
from atlasmith.fusion.patches import patch_distances

COMPONENTS = {
    "entropy": "of the label probabilities, nats",
    "disagreement": "share of the atlases with another label",
    "registration": "root mean square difference of the propagated atlas images to the image over a patch; "
    "intensities are in [0, 1]",
}


def registration_residual(atlases: AlignedAtlases) -> Tensor:
    """Compute the component (*shape) of the registration, which is the same for all methods."""
    return atlases.mean_over_votes(patch_distances(atlases)).sqrt()


class Uncertainty:
    """Accumulates the uncertainty while each label's probability is computed once.

    Args:
        atlases: The atlases.
    """

    def __init__(self, atlases: AlignedAtlases) -> None:
        self.atlases = atlases
        self._entropy, self._best, self._agreement = torch.zeros(
            3, *atlases.labels.shape[1:], device=atlases.labels.device
        )

    def accumulate(self, probabilities: Iterable[LabelProbability]) -> LabelProbabilities:
        """Yield the probabilities unchanged, and accumulate their uncertainty."""
        for value, box, probability in probabilities:
            self._entropy[box] -= torch.xlogy(probability, probability)
            agreement, best = self._agreement[box], self._best[box]
            agreement.copy_(torch.where(probability > best, self.atlases.share(value, box), agreement))
            best.clamp_(min=probability)
            yield value, box, probability

    def maps(self, registration: Tensor) -> Tensor:
        """Return the components (`COMPONENTS`, *shape), once all probabilities are accumulated.

        Args:
            registration: (*shape), from `registration_residual`.
        """
        # By rounding, a probability may exceed 1.
        return torch.stack([self._entropy.clamp(min=0), 1 - self._agreement, registration])
