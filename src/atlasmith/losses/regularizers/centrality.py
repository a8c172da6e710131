"""Regularizer of a batch of subjects: the template's distance from their mean."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from atlasmith.core import distributed
from atlasmith.losses.regularizers.base import Regularizer
from atlasmith.losses.regularizers.smoothness import magnitude


@Regularizer.declare(
    "Squared mean displacement of the cohort. For a central template.", needs=("forward", "batch")
)
def centrality(forward: Tensor, spacing: Sequence[float]) -> Tensor:
    """Estimate the squared length, mm^2, of the cohort's mean displacement from those of a batch.

    It is zero for a template at the barycenter of its subjects (the term of Dalca et al. 2019,
    arXiv:1908.02738). The estimate is the mean of <u_i, u_j> over pairs of different subjects, whose
    expectation is the square of the mean; so a value may be negative. A single subject counts as the mean.
    The batch is that of all processes.
    """
    count = len(forward) * distributed.world_size()
    if count == 1:
        return magnitude(forward, spacing)
    summed = distributed.all_reduce_sum(forward.sum(dim=0, keepdim=True))
    pairs = summed.square() - distributed.all_reduce_sum(forward.square().sum(dim=0, keepdim=True))
    return pairs.sum(dim=1).mean() / (count * (count - 1))
