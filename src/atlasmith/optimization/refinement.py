"""From a displacement that a search has found to coefficients, and on by Adam."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from atlasmith.core.sampling import smooth
from atlasmith.optimization.adam import descend
from atlasmith.optimization.objective import InstanceObjective

SMOOTHING = (4.0, 2.0, 0.0)  # standard deviations that are tried, voxels of the coefficients' grid


def refine(
    objective: InstanceObjective, start: Tensor, displacement: Tensor, steps: int, learning_rate: float
) -> list[Tensor]:
    """Minimize an objective by Adam from the best start: one that is given, or a displacement.

    The displacement is smoothed as much as is best, since that of a search is rough, for which regularizers
    would reject it.

    Args:
        objective: As in `Optimizer`.
        start: Likewise.
        displacement: (B, d, *half), voxels.
        steps: Number of steps.
        learning_rate: Initial learning rate.

    Returns:
        For each image the best start, then a few iterates.
    """
    ndim = displacement.shape[1]
    with torch.no_grad():
        smoothed = (smooth(displacement, [sigma] * ndim) for sigma in SMOOTHING)
        starts = [start, *(objective.fit(x) for x in smoothed)]
        rows = [[x[i : i + 1] for x in starts] for i in range(len(start))]
        initial = torch.cat([_best(objective, row, i) for i, row in enumerate(rows)])
    return [initial, *descend(objective, initial, steps, learning_rate)]


def _best(objective: InstanceObjective, coefficients: Sequence[Tensor], image: int) -> Tensor:
    """The coefficients (1, channels, *half) of an image of the lowest objective, among those without more
    folds than the first, which is taken when in doubt."""
    best, *others = coefficients
    chosen = slice(image, image + 1)
    initial = objective(best, chosen=chosen)
    lowest, folds = initial.loss, initial.folds
    for candidate in others:
        found = objective(candidate, chosen=chosen)
        better = (found.loss < lowest) & (found.folds <= folds)
        best, lowest = torch.where(better, candidate, best), torch.where(better, found.loss, lowest)
    return best
