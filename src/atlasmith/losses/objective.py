"""The objective that training and instance optimization share: named, weighted terms from the config."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from atlasmith.core.errors import look_up
from atlasmith.core.fields import compose, exponentiate, resize_displacement
from atlasmith.core.sampling import resize, warp
from atlasmith.losses.regularizers import REGULARISERS
from atlasmith.losses.similarity import SIMILARITY
from atlasmith.transforms.velocity import Velocity

# Regularizers of a batch of subjects, or of what only a network in training gives.
TRAINING_TERMS = ("centrality", "kl")

Terms = Mapping[str, Mapping[str, Any]]

WHOLE = 0.99  # of a voxel's mask, interpolated

# The signs of a velocity: the image is brought to the template, the template to the image.
FORWARD, INVERSE = 1, -1
DIRECTIONS = (FORWARD, INVERSE)


def similarities(terms: Terms, fixed: Tensor, moved: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
    """Each of `terms` between two images, times its weight, by name."""
    values = {}
    for name, settings in terms.items():
        weight, parameters = _split(settings)
        values[name] = weight * look_up(SIMILARITY, name, "similarity")(fixed, moved, mask, **parameters)
    return values


def _regularizers(terms: Terms, judged: Mapping[str, Any]) -> dict[str, Tensor]:
    """Each of `terms`, times its weight, by name; a regularizer's parameters name what it judges."""
    values = {}
    for name, settings in terms.items():
        weight, parameters = _split(settings)
        function = look_up(REGULARISERS, name, "regularizer")
        arguments = {key: judged[key] for key in inspect.signature(function).parameters if key in judged}
        values[name] = weight * function(**arguments, **parameters)
    return values


def needs_displacements(terms: Terms) -> bool:
    """Whether a regularizer among `terms` looks at displacements, not at velocities alone."""
    seen = [inspect.signature(REGULARISERS[name]).parameters for name in terms if name in REGULARISERS]
    return any("forward" in parameters or "inverse" in parameters for parameters in seen)


def _split(settings: Mapping[str, Any]) -> tuple[float, dict[str, Any]]:
    return settings["weight"], {key: value for key, value in settings.items() if key != "weight"}


@dataclass(frozen=True)
class Objective:
    """A template and images with the maps between them, and the terms that judge them.

    maps: by direction, displacements (B, d, *half) in half-resolution voxels; image(x + forward(x)) is like the
    template, template(x + inverse(x)) like the image.
    """

    terms: dict[str, Tensor]
    maps: dict[int, Tensor]

    @property
    def forward(self) -> Tensor:
        return self.maps[FORWARD]

    @property
    def inverse(self) -> Tensor:
        return self.maps[INVERSE]

    @property
    def loss(self) -> Tensor:
        return torch.stack(list(self.terms.values())).sum()


def registration_objective(
    template: Tensor,
    image: Tensor,
    mask: Tensor,
    velocity: Velocity,
    *,
    integration_steps: int,
    velocity_spacing: tuple[float, ...],
    similarity: Terms,
    regularization: Terms,
    labels: Terms | None = None,
    save_memory: bool = False,
    directions: Sequence[int] = DIRECTIONS,
) -> Objective:
    """Judge `velocity`, at half resolution, between `template` and `image` (B, C, *shape), both ways, or on
    one of the `directions`, which is for regularizers that don't `needs_displacements`.

    The first channel is judged by `similarity`, the others, probabilities of labels, by `labels`.
    mask (B, 1, *shape) is 1 where the image has data. Similarities are averaged over the directions.
    """
    shape = image.shape[2:]
    drawn = velocity.sampled
    both = exponentiate(
        torch.cat([direction * drawn for direction in directions]), integration_steps, save_memory
    )
    maps = dict(zip(directions, both.chunk(len(directions)), strict=True))
    found: dict[str, list[Tensor]] = {}
    for direction, displacement in maps.items():
        full = resize_displacement(displacement, shape)
        if direction == FORWARD:
            moved = warp(torch.cat([image, mask], dim=1), full)
            fixed, moved, seen = template, moved[:, :-1], _whole(moved[:, -1:])
        else:
            fixed, moved, seen = image, warp(template, full), mask
        for measures, prefix, channels in (
            (similarity, "", slice(0, 1)),
            (labels or {}, "labels_", slice(1, None)),
        ):
            values = similarities(measures, fixed[:, channels], moved[:, channels], seen)
            for name, value in values.items():
                found.setdefault(prefix + name, []).append(value)
    terms = {name: torch.stack(values).mean() for name, values in found.items()}
    judged = {"velocity": to_mm(velocity.mean, velocity_spacing), "spacing": velocity_spacing}
    for name, direction in (("forward", FORWARD), ("inverse", INVERSE)):
        if direction in maps:
            judged[name] = to_mm(maps[direction], velocity_spacing)
    if "cycle" in regularization:
        judged["fixed"] = resize(template[:, :1], drawn.shape[2:])
    if velocity.log_variance is not None:
        size = velocity.log_variance.new_tensor([2 * math.log(s) for s in velocity_spacing])
        judged["log_variance"] = velocity.log_variance + size.view(1, -1, *[1] * len(shape))
    terms |= _regularizers(regularization, judged)
    return Objective(terms, maps)


def _whole(mask: Tensor) -> Tensor:
    """Where a warped mask is of data alone, without a gradient. By soft borders, which move, similarity
    would push what fits worse than most out of view, and template and people would drift apart there."""
    return (mask > WHOLE).to(mask)


def pairwise_terms(image: Tensor, mask: Tensor, objective_: Objective, terms: Terms) -> dict[str, Tensor]:
    """`terms` between each image (B, 1, *shape) of a batch and the one before, brought to it through the
    template: both maps composed, sampled once (Aladdin, Ding and Niethammer 2022, arXiv:2202.03563).

    By name, with `pairwise_` before it. What two people share and the template blurs is seen so.
    """
    if not terms:
        return {}
    others = [x.roll(1, 0) for x in (image, mask, objective_.forward)]
    composed = resize_displacement(compose(others[2], objective_.inverse), image.shape[2:])
    moved = warp(torch.cat(others[:2], dim=1), composed)
    values = similarities(terms, image, moved[:, :1], mask * _whole(moved[:, 1:]))
    return {f"pairwise_{name}": value for name, value in values.items()}


def to_mm(field: Tensor, spacing: tuple[float, ...]) -> Tensor:
    """A field (B, d, *shape) in voxels of `spacing` mm, in mm."""
    return field * field.new_tensor(spacing).view(1, -1, *[1] * (field.ndim - 2))
