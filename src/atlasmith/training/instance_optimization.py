"""Instance optimization: improve velocities, each by gradient descent on the objective of its own image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    """The objective of velocities (B, d, *half), the mean over B images.

    It is evaluated in both directions, or in one where its terms allow that; of all images, or of those that
    are `chosen`.
    """

    def __call__(
        self, velocity: Tensor, directions: Sequence[int] = DIRECTIONS, chosen: slice = slice(None)
    ) -> Objective: ...


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
    """Bind the training objective to pairs of images.

    Regularizers that need a batch or a network's output are left out, and so are terms on labels where the
    images have intensities alone.

    Args:
        fixed: Features (B, C + L, *shape) of the templates, or of other images, on `grid`: C channels of
            intensities, then label probabilities.
        moving: Features (B, C + L, *shape) of the images, affinely aligned to them.
        mask: (B, C, *shape), 1 where a channel of a moving image has data; a channel without any is absent.
        grid: The grid of both.
        similarity: Similarity terms of the intensities, by name: weight and settings.
        regularization: Regularization terms, likewise.
        integration_steps: Squarings of the exponential.
        channel_similarity: Similarity terms of single channels, by index, in the place of `similarity`.
        label_similarity: Similarity terms of the label probabilities.
        fixed_mask: (B, C, *shape), 1 where a fixed image may be compared; None: everywhere.

    Returns:
        A function of velocities (B, d, *half), in voxels of their own grid.
    """
    regularizers = find_regularizers(regularization)
    single = {name: terms for name, terms in regularization.items() if not regularizers[name].training_only}
    settings: dict[str, Any] = {
        "similarity": similarity,
        "regularization": single,
        "integration_steps": integration_steps,
        "channel_similarity": channel_similarity,
        "label_similarity": label_similarity if moving.shape[1] > mask.shape[1] else None,
    }
    always_both = not required_inputs(single).isdisjoint({"forward", "inverse"})

    def evaluate(
        velocity: Tensor, directions: Sequence[int] = DIRECTIONS, chosen: slice = slice(None)
    ) -> Objective:
        return registration_objective(
            fixed[chosen],
            moving[chosen],
            mask[chosen],
            Velocity(velocity),
            template_mask=None if fixed_mask is None else fixed_mask[chosen],
            velocity_spacing=grid.coarser_spacing(velocity.shape[2:]),
            directions=DIRECTIONS if always_both else directions,
            **settings,
        )

    return evaluate


def optimize(objective: InstanceObjective, start: Tensor, steps: int, learning_rate: float) -> Tensor:
    """Minimize an objective by Adam, no image ending worse than it started.

    Each step evaluates one of the two directions, in turn: it costs little more than half of a step on both,
    and a third more such steps end at the same value. The learning rate follows a cosine to zero. Images of a
    batch don't influence each other: the gradient of their sum is each one's own, Adam works element by
    element, and the result is chosen for each.

    Args:
        objective: See `instance_objective`.
        start: Velocities (B, d, *half), in voxels of their own grid.
        steps: Number of steps.
        learning_rate: Initial learning rate of Adam, in voxels.

    Returns:
        For each image the latest of a few iterates that is better than `start` and free of folds, or `start`
        where there is none, (B, d, *half).
    """
    velocity = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([velocity], lr=learning_rate)
    schedule = CosineAnnealingLR(optimizer, steps)
    candidates = []
    for step in range(steps):
        optimizer.zero_grad()
        (len(start) * objective(velocity, [DIRECTIONS[step % 2]]).loss).backward()
        assert velocity.grad is not None
        # Where an image isn't finite: torch crashes when it samples at NaN, to which infinite steps lead.
        velocity.grad.nan_to_num_(0.0, 0.0, 0.0)
        optimizer.step()
        schedule.step()
        if (step + 1) % max(steps // CANDIDATES, 1) == 0 or step + 1 == steps:
            candidates.append(velocity.detach().clone())
    return torch.cat(
        [_choose(objective, [x[i : i + 1] for x in (start, *candidates)], i) for i in range(len(start))]
    )


@torch.no_grad()
def _choose(objective: InstanceObjective, velocities: Sequence[Tensor], image: int) -> Tensor:
    """The latest velocity (1, d, *half) of an image that is better than the first and free of folds."""
    start, *candidates = velocities
    chosen = slice(image, image + 1)
    initial = objective(start, chosen=chosen).loss
    for candidate in reversed(candidates):
        found = objective(candidate, chosen=chosen)
        if bool((found.loss < initial) & (jacobian_determinant(found.forward) > 0).all()):
            return candidate
    return start
