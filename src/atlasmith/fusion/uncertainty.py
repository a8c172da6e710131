"""The uncertainty of a fused label, voxel by voxel.

Its components are the entropy of the label probabilities (Chen et al. 2024, arXiv:2403.05111), the
disagreement of the atlases, and the residual of their registration.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from atlasmith.core.grid import Array
from atlasmith.fusion.aligned import AlignedAtlases
from atlasmith.fusion.fuser import LabelProbabilities, LabelProbability
from atlasmith.fusion.patches import patch_distances

COMPONENTS = {
    "entropy": "of the label probabilities, nats",
    "disagreement": "share of the atlases with another label",
    "registration": "root mean square difference of the propagated atlas images to the image over a patch; "
    "intensities are in [0, 1]",
}


def registration_residual(atlases: AlignedAtlases) -> Array:
    """Compute the component (*shape) of the registration, which is the same for all methods."""
    squares = atlases.mean_over_votes(patch_distances(atlases))
    return np.sqrt(np.maximum(squares, 0))


class Uncertainty:
    """Accumulates the uncertainty while each label's probability is computed once.

    Args:
        atlases: The atlases.
    """

    def __init__(self, atlases: AlignedAtlases) -> None:
        self.atlases = atlases
        self._entropy, self._best, self._agreement = (
            np.zeros(atlases.labels.shape[1:], np.float32) for _ in range(3)
        )

    def accumulate(self, probabilities: Iterable[LabelProbability]) -> LabelProbabilities:
        """Yield the probabilities unchanged, and accumulate their uncertainty."""
        for value, box, probability in probabilities:
            self._entropy[box] -= probability * np.log(np.maximum(probability, np.finfo(np.float32).tiny))
            better = probability > self._best[box]
            self._best[box][better] = probability[better]
            self._agreement[box][better] = self.atlases.share(value, box)[better]
            yield value, box, probability

    def maps(self, registration: Array) -> Array:
        """Return the components (`COMPONENTS`, *shape), once all probabilities are accumulated.

        Args:
            registration: (*shape), from `registration_residual`.
        """
        return np.stack([self._entropy, 1 - self._agreement, registration])
