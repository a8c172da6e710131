"""The objective: the suite as training and instance optimization see it. `test_similarity.py` and
`test_regularizers.py` test the terms themselves."""

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch

from atlasmith.core.fields import compose, resize_displacement
from atlasmith.core.sampling import warp
from atlasmith.losses import (
    DIRECTIONS,
    REGULARISERS,
    SIMILARITY,
    TRAINING_TERMS,
    Objective,
    needs_displacements,
    pairwise_terms,
    registration_objective,
)
from atlasmith.losses.objective import WHOLE
from atlasmith.transforms.velocity import Velocity

DOCS = Path(__file__).parents[1] / "docs"
SHAPES = [(12, 11), (9, 10, 8)]
SETTINGS: dict[int, dict[str, Any]] = {
    ndim: {"integration_steps": 5, "velocity_spacing": (2.0, 1.5, 1.0)[:ndim], "regularization": {}}
    for ndim in (2, 3)
}


def judge(
    template: torch.Tensor, image: torch.Tensor, velocity: Velocity | torch.Tensor, **terms: Any
) -> Objective:
    values = velocity if isinstance(velocity, Velocity) else Velocity(velocity)
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
    judged = judge(template, image, velocity, similarity={name: {"weight": 2.0}})
    assert set(judged.terms) == {name}
    judged.loss.backward()
    assert torch.isfinite(velocity.grad).all() and velocity.grad.any()
    single = judge(template, image, velocity, similarity={name: {"weight": 1.0}}).loss
    torch.testing.assert_close(judged.loss, 2 * single)


@pytest.mark.parametrize("shape", SHAPES)
def test_labels_are_judged_apart_from_intensities(shape: tuple[int, ...]) -> None:
    template, image, velocity = inputs(shape)
    seen = [torch.cat([x, x.square(), 1 - x], dim=1) for x in (template, image)]
    mask = torch.ones_like(image)
    terms = {"similarity": {"mse": {"weight": 1.0}}, "labels": {"dice": {"weight": 3.0}}}
    both = registration_objective(*seen, mask, Velocity(velocity), **SETTINGS[len(shape)], **terms).terms
    assert list(both) == ["mse", "labels_dice"]
    alone = judge(template, image, velocity, similarity={"mse": {"weight": 1.0}}).terms["mse"]
    torch.testing.assert_close(both["mse"], alone)
    labels = [x[:, 1:] for x in seen]
    terms = {"similarity": {}, "labels": {"dice": {"weight": 3.0}}}
    first = [torch.cat([torch.rand_like(x[:, :1]), x], dim=1) for x in labels]
    again = registration_objective(*first, mask, Velocity(velocity), **SETTINGS[len(shape)], **terms).terms
    torch.testing.assert_close(again["labels_dice"], both["labels_dice"])


@pytest.mark.parametrize("shape", SHAPES)
def test_the_sides_average_to_both(shape: tuple[int, ...]) -> None:
    template, image, velocity = inputs(shape)
    terms = {
        "similarity": {"lncc": {"weight": 1.0, "window": 5}},
        "regularization": {"diffusion": {"weight": 0.1}},
    }
    whole, forward, inverse = (
        judge(template, image, velocity, directions=sides, **terms)
        for sides in (DIRECTIONS, DIRECTIONS[:1], DIRECTIONS[1:])
    )
    torch.testing.assert_close((forward.loss + inverse.loss) / 2, whole.loss)
    torch.testing.assert_close(forward.forward, whole.forward)
    torch.testing.assert_close(inverse.inverse, whole.inverse)
    assert not needs_displacements(terms["regularization"]) and needs_displacements(
        {"folding": {"weight": 1.0}}
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_images_meet_through_the_template(shape: tuple[int, ...]) -> None:
    """Each is compared with the one before it, by the composed maps, in one sampling."""
    template, image, velocity = inputs(shape)
    mask = torch.ones_like(image)
    objective_ = judge(template, image, velocity, similarity={"mse": {"weight": 1.0}})
    found = pairwise_terms(image, mask, objective_, {"mse": {"weight": 2.0}})
    assert list(found) == ["pairwise_mse"]
    values = []
    for here, there in ((0, 1), (1, 0)):
        composed = compose(objective_.forward[[there]], objective_.inverse[[here]])
        moved = warp(torch.cat([image, mask], dim=1)[[there]], resize_displacement(composed, shape))
        values.append(SIMILARITY["mse"](image[[here]], moved[:, :1], (moved[:, 1:] > WHOLE).float()))
    torch.testing.assert_close(found["pairwise_mse"], 2 * torch.stack(values).mean())
    assert pairwise_terms(image, mask, objective_, {}) == {}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_border_of_the_view_moves_nothing(shape: tuple[int, ...]) -> None:
    """A flat image that is seen in part is like a flat template however it is moved."""
    _, _, velocity = inputs(shape)
    velocity.requires_grad_()
    mask = torch.zeros(2, 1, *shape)
    mask[(..., *[slice(2, -2)] * len(shape))] = 1
    settings = SETTINGS[len(shape)] | {"similarity": {"mse": {"weight": 1.0}}, "sides": DIRECTIONS[:1]}
    loss = registration_objective(
        torch.ones_like(mask), mask.clone(), mask, Velocity(velocity), **settings
    ).loss
    loss.backward()
    assert loss < 1e-4 and velocity.grad.abs().max() < 1e-3


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", REGULARISERS)
def test_every_regularizer_trains(name: str, shape: tuple[int, ...]) -> None:
    template, image, mean = inputs(shape)
    velocity = Velocity(mean.requires_grad_(), torch.zeros_like(mean), torch.randn_like(mean))
    judged = judge(template, image, velocity, regularization={name: {"weight": 1.0}})
    assert set(judged.terms) == {name}
    judged.loss.backward()
    assert torch.isfinite(mean.grad).all() and mean.grad.any()


def test_terms_of_training_are_known() -> None:
    assert set(TRAINING_TERMS) <= set(REGULARISERS)


@pytest.mark.parametrize("table", [SIMILARITY, REGULARISERS])
def test_the_docs_list_every_entry(table: dict[str, Any]) -> None:
    page = (DOCS / ("similarities.md" if table is SIMILARITY else "regularizers.md")).read_text()
    for name, function in table.items():
        assert function.__doc__, name
        row = next((line for line in page.splitlines() if line.startswith(f"| `{name}` |")), None)
        assert row, f"{name} is missing from the page"
        for parameter in inspect.signature(function).parameters.values():
            if isinstance(parameter.default, int | float | str):
                assert f"`{parameter.name}`" in row, f"{name}: {parameter.name}"


@pytest.mark.parametrize("shape", SHAPES)
def test_pair_is_symmetric(shape: tuple[int, ...]) -> None:
    """Swapping template and image and turning the velocity round swaps the maps."""
    a, b, velocity = inputs(shape)
    terms = {
        "regularization": {
            name: {"weight": 1.0} for name in ("diffusion", "inverse_consistency", "gradicon")
        },
    }
    one, other = judge(a, b, velocity, **terms), judge(b, a, -velocity, **terms)
    for name, value in one.terms.items():
        torch.testing.assert_close(other.terms[name], value)
    torch.testing.assert_close(one.loss, sum(one.terms.values(), torch.zeros(())))
    torch.testing.assert_close(one.forward, other.inverse)


def test_a_velocity_is_drawn_from_its_posterior() -> None:
    mean = torch.ones(1, 2, 3, 3)
    noise = torch.randn_like(mean)
    log_variance = torch.full_like(mean, 2.0).log()
    torch.testing.assert_close(Velocity(mean, log_variance, noise).drawn, mean + 2**0.5 * noise)
    assert Velocity(mean, log_variance).drawn is mean
