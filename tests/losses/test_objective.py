"""The objective of training and instance optimization, and the tables of its terms."""

from pathlib import Path
from typing import Any

import pytest
import torch

from atlasmith.core.choices import Choice
from atlasmith.core.fields import compose, resize_displacement
from atlasmith.core.sampling import warp
from atlasmith.losses import (
    REGULARIZERS,
    SIMILARITY,
    Objective,
    pairwise_terms,
    registration_objective,
    required_inputs,
)
from atlasmith.losses.objective import MASK_THRESHOLD
from atlasmith.transforms import DIRECTIONS, Coefficients, deformation_model

DOCS = Path(__file__).parents[2] / "docs"
SHAPES = [(12, 11), (9, 10, 8)]
SETTINGS: dict[int, dict[str, Any]] = {
    ndim: {
        "deformation": deformation_model(integration_steps=5),
        "spacing": (2.0, 1.5, 1.0)[:ndim],
        "regularization": {},
    }
    for ndim in (2, 3)
}


def compute(
    template: torch.Tensor, image: torch.Tensor, velocity: Coefficients | torch.Tensor, **terms: Any
) -> Objective:
    values = velocity if isinstance(velocity, Coefficients) else Coefficients(velocity)
    return registration_objective(
        template,
        image,
        torch.ones_like(image),
        values,
        **SETTINGS[image.ndim - 2] | {"similarity": {}} | terms,
    )


def inputs(shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    half = [-(-n // 2) for n in shape]
    return torch.rand(2, 1, *shape), torch.rand(2, 1, *shape), 0.3 * torch.randn(2, len(shape), *half)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", SIMILARITY)
def test_every_similarity_trains(name: str, shape: tuple[int, ...]) -> None:
    template, image, velocity = inputs(shape)
    velocity.requires_grad_()
    objective = compute(template, image, velocity, similarity={name: {"weight": 2.0}})
    assert set(objective.terms) == {name}
    objective.loss.backward()
    assert torch.isfinite(velocity.grad).all() and velocity.grad.any()
    single = compute(template, image, velocity, similarity={name: {"weight": 1.0}}).loss
    torch.testing.assert_close(objective.loss, 2 * single)


@pytest.mark.parametrize("shape", SHAPES)
def test_labels_and_intensities_have_terms_of_their_own(shape: tuple[int, ...]) -> None:
    template, image, velocity = inputs(shape)
    channels = [torch.cat([x, x.square(), 1 - x], dim=1) for x in (template, image)]
    mask = torch.ones_like(image)
    terms = {"similarity": {"mse": {"weight": 1.0}}, "label_similarity": {"dice": {"weight": 3.0}}}
    terms_of_both = registration_objective(
        *channels, mask, Coefficients(velocity), **SETTINGS[len(shape)], **terms
    ).terms
    assert list(terms_of_both) == ["mse", "labels_dice"]
    alone = compute(template, image, velocity, similarity={"mse": {"weight": 1.0}}).terms["mse"]
    torch.testing.assert_close(terms_of_both["mse"], alone)
    labels = [x[:, 1:] for x in channels]
    terms = {"similarity": {}, "label_similarity": {"dice": {"weight": 3.0}}}
    first = [torch.cat([torch.rand_like(x[:, :1]), x], dim=1) for x in labels]
    again = registration_objective(
        *first, mask, Coefficients(velocity), **SETTINGS[len(shape)], **terms
    ).terms
    torch.testing.assert_close(again["labels_dice"], terms_of_both["labels_dice"])


@pytest.mark.parametrize("shape", SHAPES)
def test_directions_average_to_both(shape: tuple[int, ...]) -> None:
    template, image, velocity = inputs(shape)
    terms = {
        "similarity": {"lncc": {"weight": 1.0, "window": 5}},
        "regularization": {"diffusion": {"weight": 0.1}},
    }
    both, forward, inverse = (
        compute(template, image, velocity, directions=directions, **terms)
        for directions in (DIRECTIONS, DIRECTIONS[:1], DIRECTIONS[1:])
    )
    torch.testing.assert_close((forward.loss + inverse.loss) / 2, both.loss)
    torch.testing.assert_close(forward.forward, both.forward)
    torch.testing.assert_close(inverse.inverse, both.inverse)
    assert required_inputs(terms["regularization"]) == {"velocity"}
    assert required_inputs({"folding": {"weight": 1.0}}) == {"forward"}


@pytest.mark.parametrize("shape", SHAPES)
def test_pairwise_terms_compose_the_maps_through_the_template(shape: tuple[int, ...]) -> None:
    """Each image is compared with the one before, sampled once by the composed maps."""
    template, image, velocity = inputs(shape)
    mask = torch.ones_like(image)
    objective = compute(template, image, velocity, similarity={"mse": {"weight": 1.0}})
    found = pairwise_terms(image, mask, objective, {"mse": {"weight": 2.0}})
    assert list(found) == ["pairwise_mse"]
    values = []
    for here, there in ((0, 1), (1, 0)):
        composed = compose(objective.forward[[there]], objective.inverse[[here]])
        moved = warp(torch.cat([image, mask], dim=1)[[there]], resize_displacement(composed, shape))
        values.append(SIMILARITY["mse"](image[[here]], moved[:, :1], (moved[:, 1:] > MASK_THRESHOLD).float()))
    torch.testing.assert_close(found["pairwise_mse"], 2 * torch.stack(values).mean())
    assert pairwise_terms(image, mask, objective, {}) == {}


@pytest.mark.parametrize("shape", SHAPES)
def test_border_of_the_mask_has_no_gradient(shape: tuple[int, ...]) -> None:
    """A constant image with a mask resembles a constant template under any map."""
    _, _, velocity = inputs(shape)
    velocity.requires_grad_()
    mask = torch.zeros(2, 1, *shape)
    mask[(..., *[slice(2, -2)] * len(shape))] = 1
    settings = SETTINGS[len(shape)] | {"similarity": {"mse": {"weight": 1.0}}, "directions": DIRECTIONS[:1]}
    loss = registration_objective(
        torch.ones_like(mask), mask.clone(), mask, Coefficients(velocity), **settings
    ).loss
    loss.backward()
    assert loss < 1e-4 and velocity.grad.abs().max() < 1e-3


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", REGULARIZERS)
def test_every_regularizer_trains(name: str, shape: tuple[int, ...]) -> None:
    template, image, mean = inputs(shape)
    velocity = Coefficients(mean.requires_grad_(), torch.zeros_like(mean), torch.randn_like(mean))
    objective = compute(template, image, velocity, regularization={name: {"weight": 1.0}})
    assert set(objective.terms) == {name}
    objective.loss.backward()
    assert torch.isfinite(mean.grad).all() and mean.grad.any()


def test_regularizers_of_training_alone() -> None:
    assert {name for name, entry in REGULARIZERS.items() if entry.training_only} == {"centrality", "kl"}


@pytest.mark.parametrize("table", [SIMILARITY, REGULARIZERS])
def test_the_docs_list_every_entry(table: dict[str, Choice[Any]]) -> None:
    page = (DOCS / ("similarities.md" if table is SIMILARITY else "regularizers.md")).read_text()
    for name, entry in table.items():
        assert entry.function.__doc__ and entry.text, name
        row = next((line for line in page.splitlines() if line.startswith(f"| `{name}` |")), None)
        assert row, f"{name} is missing from the page"
        for setting in entry.settings:
            assert f"`{setting}`" in row, f"{name}: {setting}"


@pytest.mark.parametrize("shape", SHAPES)
def test_objective_is_symmetric(shape: tuple[int, ...]) -> None:
    """Exchanging template and image and negating the velocity exchanges the maps."""
    a, b, velocity = inputs(shape)
    terms = {
        "regularization": {
            name: {"weight": 1.0} for name in ("diffusion", "inverse_consistency", "gradicon")
        },
    }
    one, other = compute(a, b, velocity, **terms), compute(b, a, -velocity, **terms)
    for name, value in one.terms.items():
        torch.testing.assert_close(other.terms[name], value)
    torch.testing.assert_close(one.loss, sum(one.terms.values(), torch.zeros(())))
    torch.testing.assert_close(one.forward, other.inverse)
