"""Networks that are trained for many weights of the regularizers at once."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from atlasmith.core.errors import AtlasmithError
from atlasmith.core.fields import exponentiate, jacobian_determinant, resize_displacement
from atlasmith.core.grid import Grid
from atlasmith.core.sampling import coordinates, warp
from atlasmith.losses import REGULARIZERS
from atlasmith.networks import NETWORKS, CovariateCode, Groupwise
from atlasmith.networks.registration.base import END_SHARE, FactorRange, RegistrationNetwork
from atlasmith.training.device import seeded_generator
from atlasmith.training.objective import weighted_loss

WEIGHT, SHAPE = 0.1, (24, 24)  # of the regularizer, at a factor of 1
CONDITIONED = ["hypermorph", "clapirn"]


def test_drawn_factors_are_uniform_in_their_logarithm_and_the_ends_are_frequent() -> None:
    factors, random = FactorRange(0.1, 10.0), torch.Generator().manual_seed(0)
    positions = np.array([factors.position(factors.draw(random)) for _ in range(4000)])
    at_end = np.abs(np.abs(positions) - 1) < 1e-9
    assert abs(at_end.mean() - END_SHARE) < 0.02
    assert abs((positions[at_end] > 0).mean() - 0.5) < 0.06
    inner = np.sort(positions[~at_end])
    assert np.abs(inner - np.linspace(-1, 1, len(inner))).max() < 0.06


@pytest.mark.parametrize("name", CONDITIONED)
def test_the_prediction_depends_on_the_factor_which_must_be_in_the_range(name: str) -> None:
    torch.manual_seed(0)
    network = NETWORKS[name](2, 1, 2, [4, 8], lowest_factor=0.5, highest_factor=4.0)
    model = Groupwise(Grid((16, 16, 1), np.eye(4)), CovariateCode({}, {}), name, [4, 8], 6)
    model.network = network
    images = torch.rand(2, 1, 1, 16, 16)
    for parameter in network.parameters():
        parameter.data += 0.01
    found = []
    for factor in (0.5, 1.0, 4.0):
        model.set_factor(factor)
        found.append(model.coefficients(*images).mean)
    assert (found[0] - found[1]).abs().max() > 1e-4 < (found[1] - found[2]).abs().max()
    with pytest.raises(AtlasmithError, match=r"from 0\.5 to 4, and 5 was asked for"):
        model.set_factor(5.0)


def test_other_networks_predict_for_the_weights_they_are_trained_with() -> None:
    model = Groupwise(Grid((16, 16, 1), np.eye(4)), CovariateCode({}, {}), "unet_half", [4, 8], 6)
    model.set_factor(123.0)
    assert model.draw_factor(seeded_generator(0)) == 1.0


def blobs(steps: int, batch: int = 4) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs of images (batch, 1, *SHAPE) of soft ellipses."""
    points = coordinates(SHAPE, torch.zeros(()))
    for step in range(steps):
        random = torch.rand(2 * batch, 2, 2, 1, 1, generator=torch.Generator().manual_seed(step))
        center, radius = 10 + 4 * random[:, 0], 4 + 3 * random[:, 1]
        image = torch.sigmoid(8 * (1 - ((points - center) / radius).norm(dim=1, keepdim=True)))
        yield image[:batch], image[batch:]


def objective(model: Groupwise, fixed: Tensor, moving: Tensor, factor: float) -> tuple[Tensor, float, float]:
    """The loss at a factor, the image's error, and the SD of the log-Jacobian."""
    velocity = model.coefficients(fixed, moving).mean
    displacement = resize_displacement(exponentiate(velocity, 6), SHAPE)
    error = (warp(moving, displacement) - fixed).square().mean()
    roughness = REGULARIZERS["diffusion"](velocity, [1.0, 1.0])
    spread = jacobian_determinant(displacement).clamp(min=1e-3).log().std()
    return error + factor * WEIGHT * roughness, error.item(), spread.item()


def train(name: str, steps: int, fixed_factor: float | None = None) -> Groupwise:
    """Train a network on blobs, for one factor or for all of its range."""
    torch.manual_seed(0)
    grid = Grid((*SHAPE, 1), np.eye(4))
    model = Groupwise(grid, CovariateCode({}, {}), name, [8, 16, 16], integration_steps=6).train()
    optimizer = torch.optim.Adam(model.network.parameters(), lr=2e-3)
    for step, (fixed, moving) in enumerate(blobs(steps)):
        model.schedule(step / steps)
        factor = model.draw_factor(seeded_generator(0, step)) if fixed_factor is None else fixed_factor
        model.set_factor(factor)
        loss = weighted_loss([objective(model, fixed, moving, factor)[0]], factor)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@pytest.mark.parametrize(
    ("name", "steps"), [("hypermorph", 120), pytest.param("clapirn", 240, marks=pytest.mark.slow)]
)
def test_a_greater_factor_gives_smoother_deformations_and_less_similar_images(name: str, steps: int) -> None:
    model, (fixed, moving) = train(name, steps), next(blobs(1, batch=16))
    found = []
    with torch.no_grad():
        for factor in (0.1, 1.0, 10.0):
            model.set_factor(factor)
            found.append(objective(model, fixed, moving, factor)[1:])
    errors, spreads = zip(*found, strict=True)
    assert errors[0] < errors[1] < errors[2] < float((fixed - moving).square().mean())
    assert spreads[0] > 1.1 * spreads[1] > 1.2 * spreads[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "plain", "gap"), [("hypermorph", "unet_half", 0.4), ("clapirn", "lapirn", 0.25)]
)
def test_a_conditioned_network_nearly_reaches_networks_trained_for_each_factor(
    name: str, plain: str, gap: float
) -> None:
    """In as many steps as each of those. `gap`: the share of what they gain that it may lack."""
    (fixed, moving), factors = next(blobs(1, batch=16)), (0.1, 1.0, 10.0)
    model, others = train(name, 600), [train(plain, 600, factor) for factor in factors]
    identity = float((fixed - moving).square().mean())
    for factor, other in zip(factors, others, strict=True):
        model.set_factor(factor)
        with torch.no_grad():
            loss, best = (float(objective(each, fixed, moving, factor)[0]) for each in (model, other))
        assert loss < best + gap * (identity - best)


@pytest.mark.parametrize("name", CONDITIONED)
def test_weights_and_range_survive_saving(name: str, tmp_path: object) -> None:
    settings = {"lowest_factor": 0.25, "highest_factor": 2.0}
    grid = Grid((16, 16, 1), np.eye(4))
    model = Groupwise(grid, CovariateCode({}, {}), name, [4, 8], 6, network_settings=settings)
    model.save(f"{tmp_path}/model.safetensors")
    network = Groupwise.load(f"{tmp_path}/model.safetensors").network
    assert isinstance(network, RegistrationNetwork) and network.factors == FactorRange(0.25, 2.0)
    assert math.isclose(network.factors.position(0.25 * math.sqrt(8)), 0, abs_tol=1e-9)
