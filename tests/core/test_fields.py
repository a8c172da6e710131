"""Velocity and displacement fields."""

import numpy as np
import pytest
import torch
from scipy.linalg import expm
from smooth import smooth_field

from atlasmith.core.fields import (
    compose,
    compose_velocities,
    exponentiate,
    jacobian_determinant,
    resize_displacement,
    to_mm,
)
from atlasmith.core.sampling import coordinates

SHAPES = [(13, 10), (12, 9, 11)]


@pytest.mark.parametrize("ndim", [2, 3])
def test_exponential_of_a_linear_velocity(ndim: int) -> None:
    """exp(Ax) = expm(A) x, and the error halves with each squaring."""
    matrix = 0.05 * np.random.default_rng(2).normal(size=(ndim, ndim))
    n = 33
    x = coordinates((n,) * ndim, torch.zeros((), dtype=torch.float64)) - n // 2
    velocity = torch.einsum("ij,bj...->bi...", torch.from_numpy(matrix), x)
    expected = torch.einsum("ij,bj...->bi...", torch.from_numpy(expm(matrix) - np.eye(ndim)), x)
    middle = (..., *[slice(12, 21)] * ndim)
    errors = [(exponentiate(velocity, k) - expected)[middle].abs().max().item() for k in (5, 6, 7)]
    assert errors[2] < 0.02
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.15)
    assert errors[1] / errors[2] == pytest.approx(2, rel=0.15)


@pytest.mark.parametrize("shape", [(40, 36), (28, 24, 26)])
def test_negative_velocity_gives_the_inverse(shape: tuple[int, ...]) -> None:
    velocity = smooth_field(shape, 3.0, sigma=5)
    forward, inverse = exponentiate(velocity, 7), exponentiate(-velocity, 7)
    inner = (..., *[slice(5, -5)] * len(shape))
    assert compose(forward, inverse)[inner].abs().max() < 0.1
    assert (jacobian_determinant(forward) > 0).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_composed_velocity_has_the_composed_exponential(shape: tuple[int, ...]) -> None:
    outer, inner = (smooth_field(shape, 1.5, seed, sigma=4) for seed in range(2))
    expected = compose(exponentiate(outer, 7), exponentiate(inner, 7))
    inside = (slice(None), slice(None), *[slice(3, -3)] * len(shape))

    def error(velocity: torch.Tensor) -> float:
        return (exponentiate(velocity, 7) - expected)[inside].abs().mean().item()

    ours = error(compose_velocities(outer, inner))
    assert ours < 0.3 * error(outer + inner)
    assert ours < 0.3 * error(compose_velocities(inner, outer))


@pytest.mark.parametrize("ndim", [2, 3])
def test_composed_linear_velocities_have_half_their_commutator(ndim: int) -> None:
    a, b = np.random.default_rng(2).normal(size=(2, ndim, ndim)) / 10
    points = coordinates([5, 6, 7][:ndim], torch.zeros(())).double()

    def field(matrix: np.ndarray) -> torch.Tensor:
        return torch.einsum("ij,bj...->bi...", torch.from_numpy(matrix), points)

    expected = field(a + b + (a @ b - b @ a) / 2)
    torch.testing.assert_close(compose_velocities(field(a), field(b)), expected)


def test_composition_is_outer_after_inner() -> None:
    outer = torch.zeros(1, 2, 9, 9)
    outer[:, 0] = coordinates((9, 9), outer)[:, 0] * 0.5  # x -> 1.5 x
    inner = torch.full((1, 2, 9, 9), 1.0)  # x -> x + 1
    composed = compose(outer, inner)
    assert composed[0, 0, 4, 4] == pytest.approx(1.5 * 5 - 4)
    assert composed[0, 1, 4, 4] == pytest.approx(1.0)


@pytest.mark.parametrize("ndim", [2, 3])
def test_jacobian_of_a_linear_map_and_of_a_fold(ndim: int) -> None:
    matrix = np.diag([1.5, 0.5, 2.0][:ndim]) + 0.1
    x = coordinates((8,) * ndim, torch.zeros(()))
    linear = torch.einsum("ij,bj...->bi...", torch.from_numpy(matrix - np.eye(ndim)).float(), x)
    assert jacobian_determinant(linear).numpy() == pytest.approx(np.linalg.det(matrix), rel=1e-4)
    fold = torch.zeros(1, ndim, *[8] * ndim)
    fold[:, 0] = -2 * x[:, 0]  # a reflection
    assert (jacobian_determinant(fold) < 0).all()


@pytest.mark.parametrize(("shape", "integration_steps"), [((9, 8, 7), 7), ((9, 8, 7), 1), ((12, 10), 6)])
def test_saving_memory_changes_nothing(shape: tuple[int, ...], integration_steps: int) -> None:
    velocity = smooth_field(shape, 2.0).double().requires_grad_()
    plain, saving = (
        exponentiate(velocity, integration_steps, save_memory=choice) for choice in (False, True)
    )
    torch.testing.assert_close(saving, plain, rtol=0, atol=0)
    weight = torch.randn_like(plain)
    gradients = [torch.autograd.grad((x * weight).sum(), velocity)[0] for x in (plain, saving)]
    torch.testing.assert_close(*gradients)


def test_resizing_keeps_a_linear_displacement() -> None:
    fine = coordinates((9, 13, 17), torch.zeros(())) * 0.1
    coarse = resize_displacement(fine, (5, 7, 9))
    torch.testing.assert_close(coarse, coordinates((5, 7, 9), torch.zeros(())) * 0.1)
    torch.testing.assert_close(resize_displacement(coarse, (9, 13, 17)), fine)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_millimeters_are_voxels_times_their_size(kind: torch.dtype) -> None:
    field = torch.ones(2, 3, 4, 5, 6, dtype=kind)
    found = to_mm(field, [0.7, 1.0, 1.3])
    assert found.dtype == kind and found.shape == field.shape
    assert torch.equal(found[1, :, 1, 2, 3], torch.tensor([0.7, 1.0, 1.3], dtype=kind))
