"""The objective that training and instance optimisation share: named, weighted terms from the config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from atlasmith.errors import look_up
from atlasmith.losses.regularisers import bending, centrality, diffusion, magnitude
from atlasmith.losses.similarity import dice, lncc, mse
from atlasmith.warp import exponentiate, resize_displacement, warp

SIMILARITY = {"mse": mse, "lncc": lncc, "dice": dice}
REGULARISERS = {"diffusion": diffusion, "bending": bending, "magnitude": magnitude, "centrality": centrality}
# Regularisers of the displacements of a batch of subjects, not of one subject's velocity.
COHORT_TERMS = ("centrality",)

Terms = Mapping[str, Mapping[str, Any]]


def weighted(table: Mapping[str, Any], terms: Terms, *arguments: Any) -> dict[str, Tensor]:
    """Each of `terms` at `arguments`, times its weight, by name."""
    values = {}
    for name, settings in terms.items():
        parameters = {key: value for key, value in settings.items() if key != "weight"}
        values[name] = settings["weight"] * look_up(table, name, "loss")(*arguments, **parameters)
    return values


@dataclass(frozen=True)
class Pairing:
    """A template and images with the maps between them, and the terms that judge them.

    forward, inverse: displacements (B, d, *half) in half-resolution voxels; image(x + forward(x)) is like the
    template, template(x + inverse(x)) like the image.
    """

    terms: dict[str, Tensor]
    forward: Tensor
    inverse: Tensor

    @property
    def loss(self) -> Tensor:
        return torch.stack(list(self.terms.values())).sum()


def pair(
    template: Tensor,
    image: Tensor,
    mask: Tensor,
    velocity: Tensor,
    *,
    squarings: int,
    velocity_spacing: tuple[float, ...],
    similarity: Terms,
    regularisation: Terms,
) -> Pairing:
    """Judge `velocity` (B, d, *half) between `template` and `image` (B, 1, *shape), in both directions.

    mask (B, 1, *shape) is 1 where the image has data. Similarities are averaged over the two directions.
    """
    shape = image.shape[2:]
    forward, inverse = exponentiate(torch.cat([velocity, -velocity]), squarings).chunk(2)
    to_template = warp(torch.cat([image, mask], dim=1), resize_displacement(forward, shape))
    to_image = warp(template, resize_displacement(inverse, shape))
    moved, moved_mask = to_template[:, :1], to_template[:, 1:]
    on_template = weighted(SIMILARITY, similarity, template, moved, moved_mask)
    on_image = weighted(SIMILARITY, similarity, image, to_image, mask)
    terms = {name: (on_template[name] + on_image[name]) / 2 for name in on_template}
    own = {name: settings for name, settings in regularisation.items() if name not in COHORT_TERMS}
    terms |= weighted(REGULARISERS, own, to_mm(velocity, velocity_spacing), velocity_spacing)
    return Pairing(terms, forward, inverse)


def to_mm(field: Tensor, spacing: tuple[float, ...]) -> Tensor:
    """A field (B, d, *shape) in voxels of `spacing` mm, in mm."""
    return field * field.new_tensor(spacing).view(1, -1, *[1] * (field.ndim - 2))
