"""Gradient descent on the coefficients, from coarse to fine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR

from atlasmith.core.choices import Positive
from atlasmith.core.sampling import half_shape, smooth
from atlasmith.optimization.objective import InstanceObjective, ObjectiveFunction
from atlasmith.optimization.optimizer import Optimizer
from atlasmith.transforms import DIRECTIONS

CANDIDATES = 4  # iterates that are compared with the start at the end
SMALLEST_AXIS = 16  # voxels of an axis that a coarse level keeps
SMOOTHING = 2.0  # of updates: standard deviation at first, voxels of the coefficients' grid
STAGES = 3  # of a level, with less and less smoothing
BETAS = 0.9, 0.95  # of Adam: some tens of steps are no longer than the usual memory of second moments, 0.999
EPSILON = 1e-4  # of Adam, for a voxel's gradient: where there is none, rounding doesn't decide the updates


@Optimizer.declare("Adam on the coefficients, on request from coarse to fine. The default.")
def adam(
    objective: InstanceObjective,
    start: Tensor,
    steps: int,
    learning_rate: float,
    levels: int = 1,
    steps_ratio: Positive = 1.0,
    smoothing: float = SMOOTHING,
    last_smoothing: float = 0.0,
) -> list[Tensor]:
    """Minimize an objective by Adam (Kingma and Ba 2015, arXiv:1412.6980), by smooth updates.

    Each step evaluates one of the two directions, in turn: it costs little more than half of a step on both,
    and a third more such steps end at the same value. The learning rate follows a cosine to zero on each
    level. A coarse level adds to the start, which keeps its details.

    What is added to the start is smoothed by a Gaussian, so that updates are smooth whatever the gradient: a
    fluid regularization, as in greedy and SyN (Avants et al. 2008, doi:10.1016/j.media.2007.06.004), which
    unlike the regularizers of the objective takes nothing off large smooth deformations. Each third of a
    level's steps has less of it, and the start is smoothed as much as the last one.

    Args:
        objective: As in `Optimizer`.
        start: As in `Optimizer`.
        steps: Number of steps on the coarsest level.
        learning_rate: Initial learning rate, voxels of the level's coefficients.
        levels: Levels of resolution, each in voxels twice as large as the next.
        steps_ratio: Steps of each level over those of the coarser one before: below 1, the finest levels,
            whose steps take the longest, have fewer.
        smoothing: Standard deviation of the Gaussian at first, voxels of the level's coefficients.
        last_smoothing: Standard deviation in the last third of the steps; 0: none, for the finest details.

    Returns:
        A few iterates of the finest level.
    """
    initial = start
    if levels > 1:
        for size in level_shapes(objective, levels)[:-1]:
            coarse, shape = objective.at(size), half_shape(size)
            resize = objective.deformation.resize
            before = resize(initial, shape, objective.spacing(initial.shape[2:]))
            found = descend(coarse, before, steps, learning_rate, smoothing, last_smoothing)[-1]
            initial = initial + resize(found - before, initial.shape[2:], objective.spacing(shape))
            steps = max(1, round(steps * steps_ratio))
    return descend(objective, initial, steps, learning_rate, smoothing, last_smoothing)


def descend(
    objective: ObjectiveFunction,
    start: Tensor,
    steps: int,
    learning_rate: float,
    smoothing: float = SMOOTHING,
    last_smoothing: float = 0.0,
) -> list[Tensor]:
    """Take steps of Adam on one level: see `adam`, but for the levels."""
    stages = 1 if smoothing == last_smoothing else STAGES
    sigmas = np.linspace(smoothing, last_smoothing, stages).tolist()
    start = smooth(start, [last_smoothing] * (start.ndim - 2))
    change = torch.zeros_like(start, requires_grad=True)
    # One for all stages: a rate that begins anew with each leaves deformations less smooth at the end.
    optimizer = torch.optim.Adam([change], lr=learning_rate, betas=BETAS, eps=EPSILON)
    schedule = CosineAnnealingLR(optimizer, steps)
    candidates: list[Tensor] = []
    for index, sigma in enumerate(sigmas):
        count = steps * (index + 1) // stages - steps * index // stages
        if count:
            smoothed = _Smoothed(objective, start, change, sigma)
            found = minimize(smoothed.loss, optimizer, smoothed.coefficients, count, schedule)
            candidates, start = [*candidates[-1:], *found], found[-1]
            with torch.no_grad():
                change.zero_()
    return candidates


@dataclass(frozen=True, eq=False)
class _Smoothed:
    """An objective of a change of the start that is smoothed by `sigma` voxels."""

    objective: ObjectiveFunction
    start: Tensor
    change: Tensor
    sigma: float

    def coefficients(self) -> Tensor:
        return self.start + smooth(self.change, [self.sigma] * (self.start.ndim - 2))

    def loss(self, direction: int) -> Tensor:
        # Of the sum over voxels and images: each one's gradient is its own, whatever their number.
        return self.start[:, 0].numel() * self.objective(self.coefficients(), [direction]).loss


def minimize(
    loss: Callable[[int], Tensor],
    optimizer: torch.optim.Adam,
    iterate: Callable[[], Tensor],
    steps: int,
    schedule: CosineAnnealingLR | None = None,
) -> list[Tensor]:
    """Minimize a sum over images by Adam.

    Args:
        loss: The scalar for one of the two directions, which take turns.
        optimizer: Of the leaves that it depends on, with the initial learning rate.
        iterate: The coefficients (B, channels, *half) that the parameters stand for.
        steps: Number of steps.
        schedule: Of the learning rate, one step for each; None: a cosine to zero.

    Returns:
        A few of the iterates, the last one among them.
    """
    (group,) = optimizer.param_groups
    schedule = schedule or CosineAnnealingLR(optimizer, steps)
    candidates = []
    for step in range(steps):
        optimizer.zero_grad()
        loss(DIRECTIONS[step % 2]).backward()
        for parameter in group["params"]:
            assert parameter.grad is not None
            # Where an image isn't finite: torch crashes when it samples at NaN, to which infinite steps lead.
            parameter.grad.nan_to_num_(0.0, 0.0, 0.0)
        optimizer.step()
        schedule.step()
        if (step + 1) % max(steps // CANDIDATES, 1) == 0 or step + 1 == steps:
            with torch.no_grad():
                candidates.append(iterate())
    return candidates


def level_shapes(objective: InstanceObjective, levels: int) -> list[tuple[int, ...]]:
    """Return the shapes of the levels, coarse to fine: each has half the voxel size of the one before.

    Axes with larger voxels than a level's keep their own; all levels have the same corner voxels. Levels of
    fewer than `SMALLEST_AXIS` voxels are left out.
    """
    full: Sequence[int] = objective.fixed.shape[2:]
    spacing = objective.spacing(full)
    shapes: list[tuple[int, ...]] = []
    for level in range(levels):
        size = 2**level * min(spacing)
        shape = tuple(round((n - 1) * own / max(own, size)) + 1 for n, own in zip(full, spacing, strict=True))
        if level and any(n < min(SMALLEST_AXIS, m) for n, m in zip(shape, full, strict=True)):
            break
        shapes.insert(0, shape)
    return shapes
