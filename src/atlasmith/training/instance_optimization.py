"""Instance optimization: improve one image's velocity by gradient descent on the training objective."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR

from atlasmith.core.fields import jacobian_determinant
from atlasmith.core.grid import Grid
from atlasmith.losses import Objective, find_regularizers, registration_objective, required_inputs
from atlasmith.transforms import DIRECTIONS, Velocity

CANDIDATES = 4  # iterates that are compared with the start at the end

Terms = Mapping[str, Mapping[str, Any]]


class InstanceObjective(Protocol):
    """The objective of a velocity (1, d, *half), in both directions or in one where its terms allow that."""

    def __call__(self, velocity: Tensor, directions: Sequence[int] = DIRECTIONS) -> Objective: ...


def instance_objective(
    fixed: Tensor,
    moving: Tensor,
    mask: Tensor,
    grid: Grid,
    *,
    similarity: Terms,
    regularization: Terms,
    integration_steps: int,
    channel_similarity: Mapping[int, Terms] | None = None,
    label_similarity: Terms | None = None,
    fixed_mask: Tensor | None = None,
) -> InstanceObjective:
    """Bind the training objective to one pair of images.

    Regularizers that need a batch or a network's output are left out, and so are terms on labels where the
    images have intensities alone.

    Args:
        fixed: Features (1, C + L, *shape) of the template, or of another image, on `grid`: C channels of
            intensities, then label probabilities.
        moving: Features (1, C + L, *shape) of the image, affinely aligned to it.
        mask: (1, C, *shape), 1 where a channel of the moving image has data; a channel without any is absent.
        grid: The grid of both.
        similarity: Similarity terms of the intensities, by name: weight and settings.
        regularization: Regularization terms, likewise.
        integration_steps: Squarings of the exponential.
        channel_similarity: Similarity terms of single channels, by index, in the place of `similarity`.
        label_similarity: Similarity terms of the label probabilities.
        fixed_mask: (1, C, *shape), 1 where the fixed image may be compared; None: everywhere.

    Returns:
        A function of a velocity (1, d, *half), in voxels of its own grid.
    """
    regularizers = find_regularizers(regularization)
    single = {name: terms for name, terms in regularization.items() if not regularizers[name].training_only}
    objective = partial(
        registration_objective,
        fixed,
        moving,
        mask,
        similarity=similarity,
        regularization=single,
        integration_steps=integration_steps,
        channel_similarity=channel_similarity,
        label_similarity=label_similarity if moving.shape[1] > mask.shape[1] else None,
        template_mask=fixed_mask,
    )
    always_both = not required_inputs(single).isdisjoint({"forward", "inverse"})

    def evaluate(velocity: Tensor, directions: Sequence[int] = DIRECTIONS) -> Objective:
        return objective(
            Velocity(velocity),
            velocity_spacing=grid.coarser_spacing(velocity.shape[2:]),
            directions=DIRECTIONS if always_both else directions,
        )

    return evaluate


def optimize(objective: InstanceObjective, start: Tensor, steps: int, learning_rate: float) -> Tensor:
    """Minimize an objective by Adam, never ending worse than the start.

    Each step evaluates one of the two directions, in turn: it costs little more than half of a step on both,
    and a third more such steps end at the same value. The learning rate follows a cosine to zero.

    Args:
        objective: See `instance_objective`.
        start: Velocity (1, d, *half), in voxels of its own grid.
        steps: Number of steps.
        learning_rate: Initial learning rate of Adam, in voxels.

    Returns:
        The latest of a few iterates that is better than `start` and free of folds, or `start` where there is
        none.
    """
    velocity = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([velocity], lr=learning_rate)
    schedule = CosineAnnealingLR(optimizer, steps)
    candidates = []
    for step in range(steps):
        optimizer.zero_grad()
        objective(velocity, [DIRECTIONS[step % 2]]).loss.backward()
        optimizer.step()
        schedule.step()
        if (step + 1) % max(steps // CANDIDATES, 1) == 0 or step + 1 == steps:
            candidates.append(velocity.detach().clone())
    with torch.no_grad():
        initial = objective(start).loss
        for candidate in reversed(candidates):
            found = objective(candidate)
            if found.loss < initial and bool((jacobian_determinant(found.forward) > 0).all()):
                return candidate
    return start
