"""Optimizers of a network of coordinates: its derivatives, its flow, and planted deformations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
import pytest
import torch
from scipy.linalg import expm
from scipy.ndimage import gaussian_filter
from torch import Tensor

from atlasmith.core.fields import exponentiate
from atlasmith.core.grid import Array
from atlasmith.core.sampling import coordinates, warp
from atlasmith.losses import REGULARIZERS
from atlasmith.optimization.coordinate_network import volume_change
from atlasmith.optimization.neural_ode import integrate
from atlasmith.optimization.perceptron import (
    Activation,
    Perceptrons,
    centered_coordinates,
    strided_shape,
)
from atlasmith.registration import RegistrationResult, register

NAMES = ["coordinate_network", "neural_ode"]
DOUBLE = torch.zeros((), dtype=torch.float64)


def random_perceptrons(ndim: int, activation: Activation = "sine", omega: float = 6.0) -> Perceptrons:
    """Two perceptrons in double precision, with different weights in all layers."""
    network = Perceptrons(2, ndim, ndim, 8, 3, omega, activation, DOUBLE)
    random = torch.Generator().manual_seed(1)
    for parameter in network.parameters:
        parameter.data += 0.3 * torch.rand(parameter.shape, generator=random, dtype=torch.float64)
    return network


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("activation", get_args(Activation))
def test_jacobian_in_closed_form_is_the_automatic_one(activation: Activation, ndim: int) -> None:
    network = random_perceptrons(ndim, activation)
    points = torch.rand(1, 7, ndim, dtype=torch.float64).requires_grad_()
    found = network.jacobian(points)
    for image in range(2):
        for component in range(ndim):
            value = network(points)[image, :, component].sum()
            expected = torch.autograd.grad(value, points)[0][0]
            torch.testing.assert_close(found[image, :, component], expected)


def test_second_derivatives_of_a_network_give_its_bending_energy() -> None:
    """Every mixed derivative twice, yz too, and the mean over points once, against IDIR's own code."""
    spacing = (0.02, 0.03, 0.025)
    network = random_perceptrons(3, omega=2.0)
    points = coordinates((9, 8, 7), DOUBLE) * torch.tensor(spacing, dtype=torch.float64).view(1, 3, 1, 1, 1)
    line = points.flatten(2).mT.requires_grad_()
    jacobian = network.jacobian(line)
    expected = torch.zeros((), dtype=torch.float64)
    for component in range(3):
        for axis in range(3):
            slope = jacobian[0, :, component, axis].sum()
            expected += torch.autograd.grad(slope, line, retain_graph=True)[0].square().sum(2).mean() / 3
    field = network(line).mT.unflatten(2, points.shape[2:])[:1]
    found = REGULARIZERS["bending"](field, spacing=spacing)
    torch.testing.assert_close(found, expected, rtol=0.01, atol=0)


def test_volume_change_of_a_linear_map() -> None:
    gradient = torch.tensor([[0.5, 0.2], [0.1, -0.4]], dtype=torch.float64)
    found = volume_change(gradient.expand(2, 3, 2, 2))
    assert found.item() == pytest.approx(abs(1.5 * 0.6 - 0.2 * 0.1 - 1))


def test_perceptrons_start_at_zero_and_equal_for_each_image() -> None:
    """Their random numbers are their own: torch's generator is neither used nor set."""
    torch.manual_seed(5)
    state = torch.get_rng_state()
    network, other = (Perceptrons(3, 2, 2, 4, 2, 30.0, "sine", torch.zeros(())) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert not network(torch.rand(1, 5, 2)).any()
    for mine, same in zip(network.parameters, other.parameters, strict=True):
        assert torch.equal(mine, same) and torch.equal(mine[0], mine[2])


def test_coordinates_are_isotropic_and_centered() -> None:
    grid = centered_coordinates((9, 5), (1.0, 3.0), DOUBLE)[0]
    assert grid[0, :, 0].tolist() == pytest.approx(np.linspace(-4 / 6, 4 / 6, 9))
    assert grid[1, 0].tolist() == pytest.approx([-1, -0.5, 0, 0.5, 1])
    assert strided_shape((9, 2, 1), 4) == [3, 2, 1]


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("rk4", 4)])
def test_order_of_convergence(solver: Any, order: int) -> None:
    """On a linear ODE, whose solution is a matrix exponential: half the step, 2^order times the accuracy."""
    matrix = np.array([[0.2, -1.0], [0.8, -0.4]])
    points = torch.rand(6, 2, dtype=torch.float64)
    exact = points @ torch.from_numpy(expm(matrix)).T
    errors = [
        (integrate(lambda x: x @ torch.from_numpy(matrix).T, points, n, solver) - exact).abs().max().item()
        for n in (16, 32)
    ]
    assert np.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.1)


def planted(shape: Sequence[int], length: float) -> tuple[Array, Array, Tensor]:
    """Fixed and moving image of smooth texture, and the displacement (1, d, *shape) between them."""
    random = np.random.default_rng(3)
    texture = gaussian_filter(random.normal(size=shape), 2.0)
    moving = (0.5 + 0.2 * texture / texture.std()).clip(0, 1)
    velocity = np.stack([gaussian_filter(random.normal(size=shape), 7.0) for _ in shape])
    # None at the border, beyond which there is nothing to match.
    velocity *= np.prod(
        [np.sin(np.pi * i / (n - 1)) for i, n in zip(np.indices(shape), shape, strict=True)], 0
    )
    velocity *= length / np.linalg.norm(velocity, axis=0).max()
    truth = exponentiate(torch.from_numpy(velocity)[None].float(), 7)
    fixed = warp(torch.from_numpy(moving)[None, None].float(), truth, padding="border")
    return fixed[0, 0].numpy(), moving, truth


def error(result: RegistrationResult, truth: Tensor) -> float:
    """Median error in voxels of 1 mm."""
    field = result.forward[0]
    found = torch.from_numpy(field.vectors[..., : truth.shape[1]]).movedim(-1, 0)  # type: ignore[union-attr]
    return float((found.reshape(truth.shape[1:]) - truth[0]).norm(dim=0).median())


CASES: list[tuple[str, int, str, dict[str, Any]]] = [
    ("coordinate_network", 40, "stationary_velocity", {}),
    ("coordinate_network", 40, "stationary_velocity", {"activation": "relu"}),
    ("coordinate_network", 40, "displacement", {"jacobian": 0.05}),
    ("neural_ode", 32, "stationary_velocity", {}),
    ("neural_ode", 32, "displacement", {"solver": "rk4", "time_steps": 1}),
]


@pytest.mark.parametrize(("name", "steps", "parametrization", "settings"), CASES, ids=str)
def test_a_planted_deformation_is_found(
    name: str, steps: int, parametrization: str, settings: dict[str, Any]
) -> None:
    fixed, moving, truth = planted((48, 44), 8.0)
    given: dict[str, Any] = {"parametrization": parametrization, "optimizer_settings": settings}
    result = register(fixed, moving, steps=steps, levels=2, optimizer=name, device="cpu", **given)
    assert truth.norm(dim=1).median() > 1.5
    assert error(result, truth) < 0.75
    assert result.metrics["nonpositive_jacobian_percent"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_planted_deformation_is_found_in_3d(name: str) -> None:
    fixed, moving, truth = planted((40, 36, 32), 8.0)
    result = register(fixed, moving, steps=60, levels=2, optimizer=name, device="cpu")
    assert truth.norm(dim=1).median() > 0.9
    assert error(result, truth) < 0.3


@pytest.mark.parametrize("name", NAMES)
def test_the_start_is_kept_where_nothing_is_better(name: str) -> None:
    """And refined where something is: here the start is the planted deformation itself."""
    fixed, moving, truth = planted((24, 20), 3.0)
    start = torch.nn.functional.interpolate(truth, (12, 10), mode="bilinear", align_corners=True) / 2
    given: dict[str, Any] = {"parametrization": "displacement", "device": "cpu", "network": lambda *_: start}
    before, after = (register(fixed, moving, steps=steps, optimizer=name, **given) for steps in (0, 3))
    assert sum(after.terms.values()) <= sum(before.terms.values())
    assert error(after, truth) < 0.5
