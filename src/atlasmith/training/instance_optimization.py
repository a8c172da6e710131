"""Instance optimization: one image's own velocity, made better under training's objective."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from atlasmith.config import Config
from atlasmith.core.fields import jacobian_determinant
from atlasmith.core.grid import Grid
from atlasmith.losses import (
    DIRECTIONS,
    TRAINING_TERMS,
    Objective,
    needs_displacements,
    registration_objective,
)
from atlasmith.transforms.velocity import Velocity

SNAPSHOTS = 4  # velocities on the way that may be the answer


class ObjectiveFunction(Protocol):
    """A velocity (1, d, *half), judged both ways, or on one direction where the terms allow it."""

    def __call__(self, velocity: Tensor, directions: Sequence[int] = DIRECTIONS) -> Objective: ...


def instance_objective(
    config: Config, grid: Grid, template: Tensor, image: Tensor, mask: Tensor
) -> ObjectiveFunction:
    """How training judges a velocity between features (1, C, *shape) of the template, or of another image,
    and of an image, all on `grid`: without the terms that need a batch or a network, and without those on
    labels where there are intensities alone."""
    regularization = {
        name: settings
        for name, settings in config.template.regularization.items()
        if name not in TRAINING_TERMS
    }
    judged = partial(
        registration_objective,
        template,
        image,
        mask,
        integration_steps=config.template.integration_steps,
        similarity=config.template.similarity,
        labels=config.template.label_similarity if image.shape[1] > 1 else {},
        regularization=regularization,
    )
    always_both = needs_displacements(regularization)

    def on(velocity: Tensor, directions: Sequence[int] = DIRECTIONS) -> Objective:
        return judged(
            Velocity(velocity),
            velocity_spacing=grid.coarser_spacing(velocity.shape[2:]),
            directions=DIRECTIONS if always_both else directions,
        )

    return on


def optimize(instance_objective: ObjectiveFunction, start: Tensor, steps: int, rate: float) -> Tensor:
    """What `steps` steps of Adam make of `start` (1, d, *half), or one of the velocities on the way: the last
    that is better than `start` and doesn't fold, and `start` where there is none.

    The steps look at the directions in turn: each costs little more than half of one that looks at both, and a
    third more of them end where those do. The rate falls to zero as a cosine does.
    """
    velocity = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([velocity], lr=rate)
    kept = []
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate * (1 + math.cos(math.pi * step / steps)) / 2
        optimizer.zero_grad()
        instance_objective(velocity, [DIRECTIONS[step % 2]]).loss.backward()
        optimizer.step()
        if (step + 1) % max(steps // SNAPSHOTS, 1) == 0 or step + 1 == steps:
            kept.append(velocity.detach().clone())
    with torch.no_grad():
        worst = instance_objective(start).loss
        for candidate in reversed(kept):
            judged = instance_objective(candidate)
            if judged.loss < worst and bool((jacobian_determinant(judged.forward) > 0).all()):
                return candidate
    return start
