"""The objective of images of several channels: means over channels, own terms, absent ones, masks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from atlasmith.losses import SIMILARITY, pairwise_terms, registration_objective
from atlasmith.transforms import DIRECTIONS, Coefficients, deformation_model

SHAPES = [(14, 12), (10, 11, 9)]
TERMS = {"lncc": {"weight": 1.0, "window": 5}, "mse": {"weight": 2.0}}


def compute(
    template: Tensor, image: Tensor, mask: Tensor, velocity: Tensor, **terms: Any
) -> dict[str, Tensor]:
    settings: dict[str, Any] = {
        "deformation": deformation_model(integration_steps=5),
        "spacing": (2.0,) * (image.ndim - 2),
        "similarity": TERMS,
        "regularization": {},
    }
    return registration_objective(template, image, mask, Coefficients(velocity), **settings | terms).terms


def inputs(shape: tuple[int, ...], channels: int = 2) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Templates, images and masks (3, C, *shape), and velocities."""
    torch.manual_seed(0)
    template, image = torch.rand(2, 3, channels, *shape)
    mask = torch.ones_like(image)
    mask[:, :, :2] = 0
    return template, image, mask, 0.3 * torch.randn(3, len(shape), *(-(-n // 2) for n in shape))


@pytest.mark.parametrize("shape", SHAPES)
def test_terms_are_means_over_channels(shape: tuple[int, ...]) -> None:
    template, image, mask, velocity = inputs(shape)
    each = [compute(*(x[:, c : c + 1] for x in (template, image, mask)), velocity) for c in (0, 1)]
    both = compute(template, image, mask, velocity)
    swapped = compute(*(x.flip(1) for x in (template, image, mask)), velocity)
    for name in TERMS:
        torch.testing.assert_close(both[name], (each[0][name] + each[1][name]) / 2)
        torch.testing.assert_close(both[name], swapped[name])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", SIMILARITY)
def test_an_absent_channel_contributes_nothing(name: str, shape: tuple[int, ...]) -> None:
    """Whatever it holds: values and gradients are those of the subjects' other channels."""
    template, image, mask, velocity = inputs(shape)
    mask[1, 0] = 0
    found = []
    for value in (0.0, 1e3):
        image[1, 0] = value
        template = template.detach().clone().requires_grad_()
        terms = compute(template, image, mask, velocity, similarity={name: {"weight": 1.0}})
        terms[name].backward()
        found.append((terms[name].detach(), template.grad))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)
    assert found[0][1][1, 0].abs().max() == 0
    single = {"similarity": {name: {"weight": 1.0}}}
    whole = [
        compute(*(x[i : i + 1] for x in (template, image, mask, velocity)), **single)[name] for i in (0, 2)
    ]
    part = compute(*(x[1:2, 1:] for x in (template, image, mask)), velocity[1:2], **single)[name]
    torch.testing.assert_close(found[0][0], (whole[0] + whole[1] + part).detach() / 3)


def test_a_channel_has_its_own_terms() -> None:
    template, image, mask, velocity = inputs((14, 12))
    own = {"mi": {"weight": 3.0}}
    terms = compute(template, image, mask, velocity, channel_similarity={1: own})
    first = compute(*(x[:, :1] for x in (template, image, mask)), velocity)
    second = compute(*(x[:, 1:] for x in (template, image, mask)), velocity, similarity=own)
    assert set(terms) == {"lncc", "mse", "mi"}
    for name in TERMS:
        torch.testing.assert_close(terms[name], first[name] / 2)
    torch.testing.assert_close(terms["mi"], second["mi"] / 2)


def test_labels_are_compared_where_any_channel_is_known() -> None:
    template, image, mask, velocity = inputs((14, 12), 3)
    mask[:, 0, 5:] = 0
    labels = {"similarity": {}, "label_similarity": {"mse": {"weight": 1.0}}}
    found = compute(template, image, mask[:, :2], velocity, **labels)
    alone = compute(
        *(x[:, 2:] for x in (template, image)), mask[:, 1:2], velocity, similarity=labels["label_similarity"]
    )
    torch.testing.assert_close(found["labels_mse"], alone["mse"])


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_nothing_is_learned_where_either_mask_is_zero(direction: int, shape: tuple[int, ...]) -> None:
    template, image, mask, _ = inputs(shape)
    known = torch.ones_like(mask)
    known[:, :, :, 4:7] = 0
    velocity = torch.zeros(3, len(shape), *(-(-n // 2) for n in shape))
    terms = []
    for value in (0.0, 50.0):
        fixed, moving = torch.where(known > 0, template, value), torch.where(mask > 0, image, value)
        terms.append(compute(fixed, moving, mask, velocity, directions=[direction], template_mask=known))
    torch.testing.assert_close(terms[0], terms[1])


def test_pairs_are_compared_by_the_channels_that_both_have() -> None:
    template, image, mask, velocity = inputs((14, 12))
    mask[1, 0] = 0
    settings: dict[str, Any] = {"deformation": deformation_model(integration_steps=5), "spacing": (2.0, 2.0)}
    objective = registration_objective(
        template, image, mask, Coefficients(velocity), similarity={}, regularization={}, **settings
    )
    pairs = {"mse": {"weight": 1.0}}
    found = []
    for value in (0.0, 1e3):
        image[1, 0] = value
        found.append(pairwise_terms(image, mask, objective, pairs)["pairwise_mse"])
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)
