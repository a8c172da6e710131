"""What a fused label is unsure of, voxel by voxel: the entropy of the labels, as Chen et al. 2024
(arXiv:2403.05111) have it, what atlases disagree on, and what their registration leaves unexplained."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from atlasmith.core.grid import Array
from atlasmith.fusion.methods import Share, patch_distances
from atlasmith.fusion.propagated import Stack

PARTS = {
    "entropy": "of the labels' shares of the say, nats",
    "disagreement": "the share of the atlases that have another label",
    "registration": "root mean square difference of the warped atlases to the image around, of its range",
}


def misfit(stack: Stack) -> Array:
    """The part of the registration (*shape), which is the same for all methods."""
    squares: Array = patch_distances(stack.images, stack.target).mean(axis=0)
    return np.sqrt(np.maximum(squares, 0))


class Uncertainty:
    """Gathers what is unsure of labels (N, *shape) while the shares of all labels pass by, each once."""

    def __init__(self, labels: Array) -> None:
        self.labels = labels
        self._entropy, self._best, self._agree = (np.zeros(labels.shape[1:], np.float32) for _ in range(3))

    def passed(self, said: Iterable[Share]) -> Iterator[Share]:
        for value, box, share in said:
            self._entropy[box] -= share * np.log(np.maximum(share, np.finfo(np.float32).tiny))
            better = share > self._best[box]
            self._best[box][better] = share[better]
            votes = (self.labels[:, *box] == value).mean(axis=0, dtype=np.float32)
            self._agree[box][better] = votes[better]
            yield value, box, share

    def maps(self, registration: Array) -> Array:
        """(`PARTS`, *shape), once all shares have passed; registration: the `misfit`."""
        return np.stack([self._entropy, 1 - self._agree, registration])
