"""Instance optimisation: one image's own velocity, made better under training's objective."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from atlasmith.config import Config
from atlasmith.geometry import Grid
from atlasmith.losses import TRAINING_TERMS, Pairing, pair
from atlasmith.warp import Velocity, jacobian_determinant

# A velocity (1, d, *half), judged.
Judge = Callable[[Tensor], Pairing]


def judge(config: Config, grid: Grid, template: Tensor, image: Tensor, mask: Tensor) -> Judge:
    """How training judges a velocity between features (1, C, *shape) of the template, or of another image,
    and of an image, all on `grid`: without the terms that need a batch or a network, and without those on
    labels where there are intensities alone."""
    judged = partial(
        pair,
        template,
        image,
        mask,
        squarings=config.template.squarings,
        similarity=config.template.similarity,
        labels=config.template.labels if image.shape[1] > 1 else {},
        regularisation={
            name: settings
            for name, settings in config.template.regularisation.items()
            if name not in TRAINING_TERMS
        },
    )
    return lambda velocity: judged(
        Velocity(velocity), velocity_spacing=grid.coarser_spacing(velocity.shape[2:])
    )


def optimise(judge: Judge, start: Tensor, steps: int, rate: float) -> Tensor:
    """The best velocity without a fold of `start` and `steps` steps of Adam from it, never a worse one than
    `start`. The rate falls to zero as a cosine does.
    """
    best, best_value = start, float("inf")
    velocity = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([velocity], lr=rate)

    def judged() -> Tensor:
        nonlocal best, best_value
        pairing = judge(velocity)
        folds = bool((jacobian_determinant(pairing.forward.detach()) <= 0).any())
        if pairing.loss.item() < best_value and not (folds and best_value < float("inf")):
            best, best_value = velocity.detach().clone(), pairing.loss.item()
        return pairing.loss

    for step in range(steps):
        optimiser.param_groups[0]["lr"] = rate * (1 + math.cos(math.pi * step / steps)) / 2
        optimiser.zero_grad()
        judged().backward()
        optimiser.step()
    with torch.no_grad():
        judged()
    return best
