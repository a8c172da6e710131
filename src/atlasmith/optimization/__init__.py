"""Optimizers of one image's registration, by name.

Each entry is a function declared with `Optimizer.declare` in a module of this package, and a line in
OPTIMIZERS.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from atlasmith.core.errors import look_up
from atlasmith.core.fields import jacobian_determinant
from atlasmith.core.sampling import local_mean, smooth
from atlasmith.optimization.adam import adam
from atlasmith.optimization.convex_adam import convex_adam
from atlasmith.optimization.coordinate_network import coordinate_network
from atlasmith.optimization.keypoints import keypoints
from atlasmith.optimization.neural_ode import neural_ode
from atlasmith.optimization.objective import InstanceObjective, ObjectiveFunction, instance_objective
from atlasmith.optimization.optimizer import Optimizer
from atlasmith.optimization.points import PointSets

# A fold or two at single voxels is no reason to reject a deformation: it is smoothed there, a few times.
REPAIRS = 6
FOLD_MARGIN, FOLD_SIGMA = 2, 1.5  # voxels of the coefficients' grid

OPTIMIZERS: dict[str, Optimizer] = {
    "adam": adam,
    "convex_adam": convex_adam,
    "keypoints": keypoints,
    "coordinate_network": coordinate_network,
    "neural_ode": neural_ode,
}


def optimize(
    objective: ObjectiveFunction,
    start: Tensor,
    steps: int,
    learning_rate: float,
    optimizer: str = "adam",
    settings: Mapping[str, Any] | None = None,
    levels: int = 1,
) -> Tensor:
    """Minimize an objective, no image ending worse than it started.

    Args:
        objective: See `InstanceObjective`.
        start: Coefficients (B, channels, *half), in voxels of their own grid.
        steps: Number of steps; 0 returns the start.
        learning_rate: Initial learning rate, in voxels.
        optimizer: A name in OPTIMIZERS.
        settings: Its settings; None: the defaults.
        levels: Levels of resolution, unless the settings say how many, of optimizers that have them.

    Returns:
        For each image the latest of a few candidates that is better than `start` and has no more folds, if
        need be after smoothing where it folds, or `start` where there is none, (B, channels, *half).

    Raises:
        AtlasmithError: If there is no optimizer of that name, or for a setting that can't be used.
    """
    found = look_up(OPTIMIZERS, optimizer, "optimizer")
    settings = ({"levels": levels} if "levels" in found.settings else {}) | dict(settings or {})
    found.check_settings(settings)
    if steps == 0:
        return start
    candidates = found(objective, start, steps, learning_rate, **settings)
    return torch.cat(
        [_choose(objective, [x[i : i + 1] for x in (start, *candidates)], i) for i in range(len(start))]
    )


@torch.no_grad()
def _choose(objective: ObjectiveFunction, coefficients: Sequence[Tensor], image: int) -> Tensor:
    """The latest coefficients (1, channels, *half) of an image that are better than the first, with no more
    folds, if need be after smoothing them where they fold."""
    start, *candidates = coefficients
    chosen = slice(image, image + 1)
    initial = objective(start, chosen=chosen)
    folds = initial.folds
    for candidate in reversed(candidates):
        for _ in range(1 + REPAIRS):
            found = objective(candidate, chosen=chosen)
            if not bool(found.loss < initial.loss):
                break
            if bool(found.folds <= folds):
                return candidate
            candidate = _smoothed_at_folds(candidate, found.forward)
    return start


def _smoothed_at_folds(coefficients: Tensor, forward: Tensor) -> Tensor:
    """Coefficients (1, channels, *half), smoothed around where the displacement (1, d, *half) folds."""
    ndim = forward.shape[1]
    folded = (jacobian_determinant(forward) <= 0).to(forward)
    near = local_mean((local_mean(folded, FOLD_MARGIN) > 0).to(folded), 1)[:, None]
    return torch.lerp(coefficients, smooth(coefficients, [FOLD_SIGMA] * ndim), near)


__all__ = [
    "OPTIMIZERS",
    "InstanceObjective",
    "ObjectiveFunction",
    "Optimizer",
    "PointSets",
    "instance_objective",
    "optimize",
]
