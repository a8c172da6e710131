"""Regularizer of a batch of subjects: the template's distance from their mean."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from atlasmith.core import distributed
from atlasmith.losses.regularizers.base import Regularizer
from atlasmith.losses.regularizers.smoothness import magnitude


@Regularizer.declare(
    "Squared length of the cohort's mean displacement. Keeps the template in the middle of its subjects.",
    needs=("forward", "pair_dependence"),
)
def centrality(forward: Tensor, pair_dependence: float, spacing: Sequence[float]) -> Tensor:
    """Estimate the squared length, mm^2, of the cohort's mean displacement from a batch, without bias.

    It is zero for a template at the barycenter of its subjects (the term of Dalca et al. 2019,
    arXiv:1908.02738). Let P be the mean of <u_i, u_j> over the pairs of a batch, and S that of |u_i|^2. For
    pairs of a cohort of N, drawn without replacement, E P = m^2 - (E S - m^2) / (N - 1), with m^2 the squared
    length of the mean: a central template would seem to lie at -S / (N - 1). With c the share of the batch's
    pairs that were so drawn, over N - 1, (P + c S) / (1 + c) has the expectation m^2; so a value may be
    negative. A single subject counts as the mean. The batch is that of all processes.

    Args:
        forward: Displacements (B, d, *shape), mm.
        pair_dependence: c, between 0 (independent subjects) and 1 / (N - 1).
        spacing: Voxel sizes (d), mm.
    """
    count = len(forward) * distributed.world_size()
    if count == 1:
        return magnitude(forward, spacing)
    summed = distributed.all_reduce_sum(forward.sum(dim=0, keepdim=True))
    squares = distributed.all_reduce_sum(forward.square().sum(dim=0, keepdim=True))
    pairs = (summed.square() - squares) / (count * (count - 1))
    corrected = (pairs + pair_dependence * squares / count) / (1 + pair_dependence)
    return corrected.sum(dim=1).mean()
