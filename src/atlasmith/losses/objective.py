"""The objective of training and instance optimization: weighted similarities and regularizers, by name."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from atlasmith.core.errors import look_up
from atlasmith.core.fields import compose, jacobian_determinant, per_channel, resize_displacement, to_mm
from atlasmith.core.sampling import MASK_THRESHOLD, resize, warp
from atlasmith.losses.regularizers import REGULARIZERS, Regularizer
from atlasmith.losses.similarity import SIMILARITY
from atlasmith.transforms import DIRECTIONS, FORWARD, INVERSE, Coefficients, DeformationModel

# For each similarity or regularizer, by name, its `weight` and its settings.
Terms = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Objective:
    """The terms of an objective, weighted, and the displacements that they were computed for.

    Args:
        terms: For each term, by name, its value times its weight.
        maps: For each direction, its displacements (B, d, *half), in half-resolution voxels:
            image(x + forward(x)) resembles the template, template(x + inverse(x)) the image.
    """

    terms: dict[str, Tensor]
    maps: dict[int, Tensor]

    @property
    def forward(self) -> Tensor:
        """Displacements (B, d, *half) from the template's grid to the image."""
        return self.maps[FORWARD]

    @property
    def inverse(self) -> Tensor:
        """Displacements (B, d, *half) from the image's grid to the template."""
        return self.maps[INVERSE]

    @property
    def loss(self) -> Tensor:
        """The sum of the terms."""
        return torch.stack(list(self.terms.values())).sum()

    @property
    def folds(self) -> Tensor:
        """Number of voxels at which the forward displacements fold."""
        return (jacobian_determinant(self.forward) <= 0).sum()


def similarities(terms: Terms, fixed: Tensor, moved: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
    """Compute similarities of two images, times their weights.

    Args:
        terms: Weight and settings of each similarity.
        fixed: Images (B, C, *shape).
        moved: Images of the same shape.
        mask: (B, 1, *shape), 1 where both are known; None: everywhere.

    Returns:
        For each name a scalar.

    Raises:
        AtlasmithError: If there is no similarity of that name.
    """
    values = {}
    for name, settings in terms.items():
        weight, parameters = _split(settings)
        values[name] = weight * look_up(SIMILARITY, name, "similarity")(fixed, moved, mask, **parameters)
    return values


def channel_similarities(
    terms: Sequence[Terms], fixed: Tensor, moved: Tensor, mask: Tensor, present: Tensor
) -> dict[str, Tensor]:
    """Compute similarities of two images channel by channel, times their weights.

    They are averaged over the channels that a subject has, then over subjects.

    Args:
        terms: For each channel, weight and settings of each similarity.
        fixed: Images (B, C, *shape).
        moved: Images of the same shape.
        mask: (B, C, *shape), 1 where both are known.
        present: (B, C), whether both images of a subject have a channel.

    Returns:
        For each name a scalar.

    Raises:
        AtlasmithError: If there is no similarity of that name.
    """
    values = {name: fixed.new_zeros(()) for each in terms for name in each}
    shares = (present / present.sum(dim=1, keepdim=True).clamp(min=1)).to(fixed)
    for channel, each in enumerate(terms):
        if len(terms) > 1 and shares.device.type == "cpu" and not bool(present[:, channel].any()):
            continue
        images = [x[:, channel : channel + 1] for x in (fixed, moved, mask)]
        for name, settings in each.items():
            weight, parameters = _split(settings)
            similarity = look_up(SIMILARITY, name, "similarity")
            # A GPU computes absent channels too, with a share of 0: its host would wait to leave them out.
            found = similarity(*images, reduction="none", **parameters)
            values[name] = values[name] + weight * (found * shares[:, channel]).mean()
    return values


def _present(mask: Tensor) -> Tensor:
    """Whether each image has each channel, (B, C), of masks (B, C, *shape).

    Where there is a single channel every image has it.
    """
    if mask.shape[1] == 1:
        return torch.ones(len(mask), 1, dtype=torch.bool, device=mask.device)
    return mask.flatten(2).any(dim=2)


def find_regularizers(terms: Terms) -> dict[str, Regularizer]:
    """Return the regularizers among `terms`, by name; raises `AtlasmithError` for an unknown one."""
    return {name: look_up(REGULARIZERS, name, "regularizer") for name in terms}


def required_inputs(terms: Terms) -> set[str]:
    """Return what the regularizers among `terms` need; raises `AtlasmithError` for an unknown one.

    Example:
        >>> sorted(required_inputs({"diffusion": {"weight": 0.4}, "centrality": {"weight": 0.02}}))
        ['forward', 'pair_dependence', 'velocity']
    """
    return {need for regularizer in find_regularizers(terms).values() for need in regularizer.needs}


def _split(settings: Mapping[str, Any]) -> tuple[float, dict[str, Any]]:
    """Weight and settings of a term."""
    return settings["weight"], {key: value for key, value in settings.items() if key != "weight"}


def registration_objective(
    template: Tensor,
    image: Tensor,
    mask: Tensor,
    coefficients: Coefficients,
    *,
    deformation: DeformationModel,
    spacing: tuple[float, ...],
    similarity: Terms,
    regularization: Terms,
    channel_similarity: Mapping[int, Terms] | None = None,
    label_similarity: Terms | None = None,
    template_mask: Tensor | None = None,
    save_memory: bool = False,
    pair_dependence: float = 0.0,
    directions: Sequence[int] = DIRECTIONS,
) -> Objective:
    """Compute the objective of the deformation between a template and images.

    Similarities are averaged over the directions, and over the channels of intensities that an image has.

    Args:
        template: Features (B, C + L, *shape): C channels of intensities, then L probabilities of labels.
        image: Features of the images, of the same shape.
        mask: (B, C, *shape), 1 where a channel of the image has data; a channel without any is absent.
        coefficients: Those of the deformation (B, channels, *half), in half-resolution voxels.
        deformation: Makes displacements of them.
        spacing: Size (d) of the half-resolution voxels, mm.
        similarity: Weight and settings of each similarity of the intensities.
        regularization: Weight and settings of each regularizer.
        channel_similarity: Similarities of single channels, by index, in the place of `similarity`.
        label_similarity: Weight and settings of each similarity of the probabilities of labels.
        template_mask: (B, C, *shape), 1 where the template may be compared; None: everywhere.
        save_memory: As in `DeformationModel.maps`.
        pair_dependence: Of the subjects of the batch, see `centrality`.
        directions: FORWARD, INVERSE or both, which regularizers of displacements need.

    Returns:
        The terms, and the displacements of the directions.

    Raises:
        AtlasmithError: If there is no similarity or regularizer of a name.
    """
    maps = deformation.maps(coefficients.sampled, spacing, directions, save_memory)
    values: dict[str, list[Tensor]] = {}
    count, present = mask.shape[1], _present(mask)
    of_channels = [(channel_similarity or {}).get(channel, similarity) for channel in range(count)]
    for direction, displacement in maps.items():
        fixed, moved, known = _warp_to_fixed(direction, displacement, template, image, mask, template_mask)
        found = channel_similarities(of_channels, fixed[:, :count], moved[:, :count], known, present)
        if label_similarity:
            labels = fixed[:, count:], moved[:, count:], known.amax(dim=1, keepdim=True)
            found |= {f"labels_{n}": value for n, value in similarities(label_similarity, *labels).items()}
        for name, value in found.items():
            values.setdefault(name, []).append(value)
    means = {name: torch.stack(parts).mean() for name, parts in values.items()}
    inputs: dict[str, Any] = {name: to_mm(maps[d], spacing) for name, d in _MAP_NAMES if d in maps}
    inputs["pair_dependence"] = pair_dependence
    inputs["velocity"] = to_mm(deformation.regularized(coefficients.mean, spacing), spacing)
    if "fixed" in required_inputs(regularization):
        inputs["fixed"] = resize(template[:, :1], coefficients.mean.shape[2:])
    if coefficients.log_variance is not None:
        log_size = per_channel([2 * math.log(s) for s in spacing], coefficients.log_variance)
        inputs["log_variance"] = coefficients.log_variance + log_size
    return Objective(means | _regularizers(regularization, inputs, spacing), maps)


_MAP_NAMES = (("forward", FORWARD), ("inverse", INVERSE))


def _warp_to_fixed(
    direction: int,
    displacement: Tensor,
    template: Tensor,
    image: Tensor,
    mask: Tensor,
    template_mask: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Fixed and moved features (B, C + L, *shape), and the masks (B, C, *shape) where both are known."""
    full, count = resize_displacement(displacement, image.shape[2:]), image.shape[1]
    if direction == INVERSE:
        if template_mask is not None:
            mask = mask * _binary_mask(warp(template_mask, full))
        return image, warp(template, full), mask
    moved = warp(torch.cat([image, mask], dim=1), full)
    known = _binary_mask(moved[:, count:])
    return template, moved[:, :count], known if template_mask is None else known * template_mask


def _regularizers(terms: Terms, inputs: Mapping[str, Any], spacing: tuple[float, ...]) -> dict[str, Tensor]:
    """Each regularizer of the inputs that it needs, times its weight, by name."""
    values = {}
    for name, regularizer in find_regularizers(terms).items():
        weight, parameters = _split(terms[name])
        needed = {key: inputs[key] for key in regularizer.needs}
        values[name] = weight * regularizer(**needed, spacing=spacing, **parameters)
    return values


def _binary_mask(mask: Tensor) -> Tensor:
    """Where a warped mask is interpolated from data alone, without a gradient.

    With a soft mask the similarity could shrink by moving voxels that fit badly out of the mask, which would
    move the template away from the images there.
    """
    return (mask > MASK_THRESHOLD).to(mask)


def pairwise_terms(image: Tensor, mask: Tensor, objective: Objective, terms: Terms) -> dict[str, Tensor]:
    """Compute similarities between each image of a batch and the one before, through the template.

    Both maps are composed, and the image is sampled once (Aladdin, Ding and Niethammer 2022,
    arXiv:2202.03563). These terms compare details that two subjects have in common and an average blurs.

    Args:
        image: Intensities (B, C, *shape).
        mask: (B, C, *shape), 1 where a channel of the image has data.
        objective: That of the template and these images, in both directions.
        terms: Weight and settings of each similarity, the same for all channels.

    Returns:
        For each name, with `pairwise_` before it, a scalar.
    """
    if not terms:
        return {}
    others = [x.roll(1, 0) for x in (image, mask, objective.forward)]
    composed = resize_displacement(compose(others[2], objective.inverse), image.shape[2:])
    moved, known = warp(torch.cat(others[:2], dim=1), composed).chunk(2, dim=1)
    both = _present(mask) & _present(others[1])
    values = channel_similarities([terms] * mask.shape[1], image, moved, mask * _binary_mask(known), both)
    return {f"pairwise_{name}": value for name, value in values.items()}
