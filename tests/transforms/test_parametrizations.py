"""What every parametrization must do, in 2-D and 3-D, on anisotropic voxels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from atlasmith.config.template import TemplateSection
from atlasmith.core.bsplines import spread
from atlasmith.core.cosines import cosines
from atlasmith.core.errors import AtlasmithError
from atlasmith.core.fields import compose, jacobian_determinant, resize_displacement, to_mm
from atlasmith.registration import register
from atlasmith.training.device import seeded_generator
from atlasmith.transforms import (
    DIRECTIONS,
    FORWARD,
    INVERSE,
    PARAMETRIZATIONS,
    DeformationModel,
    deformation_model,
)
from atlasmith.transforms.regions import RegionVelocity

GRIDS = {
    "2d": ((19, 14), (1.0, 1.6)),
    "3d": ((13, 7, 11), (1.5, 1.0, 1.2)),
}
every = pytest.mark.parametrize("name", PARAMETRIZATIONS)
every_grid = pytest.mark.parametrize("grid", GRIDS)
# Smaller numbers of steps, for speed.
SETTINGS = {"momentum": {"time_steps": 2}}
# Relative error of `lift`, by default of rounding: an inverse kernel is damped.
LIFTED = {"momentum": 0.02}


def smooth(channels: int, shape: tuple[int, ...], seed: int = 0, batch: int = 1) -> Tensor:
    """Random fields with periods of more than 10 voxels and a standard deviation of 1 voxel."""
    counts = [min(max(round(n / 5), 2), n) for n in shape]
    spectrum = torch.randn(batch, channels, *counts, generator=seeded_generator(seed, 0))
    modes = [math.sqrt(n / m) * cosines(n, m, spectrum) for n, m in zip(shape, counts, strict=True)]
    return spread(spectrum, modes)


def image(shape: tuple[int, ...], batch: int = 1) -> Tensor:
    """An image on a grid of twice the resolution."""
    return smooth(1, tuple(2 * n for n in shape), seed=9, batch=batch).abs()


def model_of(name: str, integration_steps: int = 6) -> DeformationModel:
    return deformation_model(name, SETTINGS.get(name), integration_steps)


def identity(model: DeformationModel, shape: tuple[int, ...], batch: int = 1) -> Tensor:
    return model.initial(image(shape, batch), shape)


def coefficients(
    model: DeformationModel, shape: tuple[int, ...], scale: float = 1.0, seed: int = 0, batch: int = 1
) -> Tensor:
    start = identity(model, shape, batch)
    if isinstance(model, RegionVelocity):  # whose regions slide unless they have one velocity
        spacing = (1.0,) * len(shape)
        return start + model.lift(scale * smooth(len(shape), shape, seed, batch), spacing)
    return start + scale * smooth(start.shape[1], shape, seed, batch)


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def inner(field: Tensor, margin: int = 2) -> Tensor:
    """Leave out the border, beyond which fields repeat it."""
    return field[(..., *[slice(margin, n - margin) for n in field.shape[2:]])]


@every
@every_grid
def test_the_initial_coefficients_are_the_identity(name: str, grid: str) -> None:
    shape, spacing = GRIDS[grid]
    model = model_of(name)
    start = identity(model, shape, batch=2)
    assert start.shape == (2, model.channels(len(shape)), *shape)
    maps = model.maps(start, spacing)
    assert tuple(maps) == DIRECTIONS
    for displacement in (*maps.values(), model.tangent(start, spacing)):
        torch.testing.assert_close(displacement, torch.zeros(2, len(shape), *shape), atol=1e-6, rtol=0)


@every
@every_grid
def test_inverse_and_forward_compose_to_the_identity(name: str, grid: str) -> None:
    shape, spacing = GRIDS[grid]
    model = model_of(name)
    maps = model.maps(coefficients(model, shape, 0.5), spacing)
    for order in ((FORWARD, INVERSE), (INVERSE, FORWARD)):
        outer, first = (maps[direction] for direction in order)
        error = inner(compose(outer, first)).norm(dim=1)
        assert error.mean() < 0.08 * inner(first).norm(dim=1).mean() and error.max() < 0.3
    for direction in DIRECTIONS:
        alone = model.maps(coefficients(model, shape, 0.5), spacing, [direction])
        torch.testing.assert_close(alone, {direction: maps[direction]})


@every
@every_grid
def test_tangent_and_lift_are_projections_of_each_other(name: str, grid: str) -> None:
    shape, spacing = GRIDS[grid]
    model, tolerance = model_of(name), LIFTED.get(name, 1e-5)
    velocity = smooth(len(shape), shape, batch=2)
    lifted = model.lift(velocity, spacing)
    assert lifted.shape == (2, model.channels(len(shape)), *shape)
    projected = model.tangent(lifted, spacing)
    assert relative_error(model.tangent(model.lift(projected, spacing), spacing), projected) < tolerance
    both = model.tangent(model.lift(model.tangent(lifted, spacing), spacing), spacing)
    assert relative_error(both, projected) < tolerance
    start = coefficients(model, shape)
    once = model.lift(model.tangent(start, spacing), spacing)
    twice = model.lift(model.tangent(once, spacing), spacing)
    assert relative_error(twice, once) < tolerance
    # Linear, so that the mean of velocities is the velocity of the mean.
    others = coefficients(model, shape, seed=1)
    sums = model.tangent(start + others, spacing), model.lift(2 * velocity, spacing)
    parts = sum(model.tangent(x, spacing) for x in (start, others))
    torch.testing.assert_close(sums[0], parts, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(sums[1], 2 * lifted, atol=1e-4, rtol=1e-4)


@every
@every_grid
def test_the_displacement_is_the_tangent_to_first_order(name: str, grid: str) -> None:
    shape, spacing = GRIDS[grid]
    model = model_of(name)
    small = coefficients(model, shape, 1e-2)
    tangent, maps = model.tangent(small, spacing), model.maps(small, spacing)
    assert relative_error(maps[FORWARD], tangent) < 0.02
    assert relative_error(maps[INVERSE], -tangent) < 0.02


@every
@every_grid
def test_compositions_to_first_order(name: str, grid: str) -> None:
    shape, spacing = GRIDS[grid]
    model = model_of(name)
    outer, first = (coefficients(model, shape, 0.02, seed) for seed in (0, 1))
    composed = model.compose(outer, first, spacing)
    expected = compose(*(model.maps(x, spacing, [FORWARD])[FORWARD] for x in (outer, first)))
    assert relative_error(model.maps(composed, spacing, [FORWARD])[FORWARD], expected) < 0.05


@every
def test_a_displacement_of_the_same_model_is_fitted(name: str) -> None:
    shape, spacing = GRIDS["2d"]
    model = model_of(name)
    displacement = model.maps(coefficients(model, shape, 0.4), spacing, [FORWARD])[FORWARD]
    found = model.fit(displacement, spacing)
    assert found.shape == (1, model.channels(len(shape)), *shape)
    fitted = model.maps(found, spacing, [FORWARD])[FORWARD]
    assert relative_error(fitted, displacement) < 0.1


@every
@every_grid
def test_resizing_keeps_the_deformation_in_mm(name: str, grid: str) -> None:
    shape, spacing = GRIDS[grid]
    model, finer = model_of(name), tuple(2 * n - 1 for n in shape)
    own = coefficients(model, shape, 0.5)
    resized = model.resize(own, finer, spacing)
    assert resized.shape == (1, own.shape[1], *finer)
    half = [size / 2 for size in spacing]
    found = to_mm(model.maps(resized, half, [FORWARD])[FORWARD], half)
    expected = to_mm(resize_displacement(model.maps(own, spacing, [FORWARD])[FORWARD], finer), half)
    assert relative_error(found, expected) < 0.1
    assert torch.equal(model.resize(own, shape, spacing), model.resize(own, shape, spacing))


@every
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    model, shape = model_of(name, integration_steps=2), (4, 3)
    start = coefficients(model, shape, 0.3).double().requires_grad_()

    def both(x: Tensor) -> tuple[Tensor, ...]:
        return tuple(model.maps(x, (1.0, 1.5)).values())

    assert torch.autograd.gradcheck(both, start, fast_mode=True, atol=1e-4)


@every
def test_saving_memory_changes_nothing(name: str) -> None:
    shape, spacing = GRIDS["2d"]
    model, results = model_of(name), []
    for save_memory in (False, True, True):
        start = coefficients(model, shape, 0.5, batch=2).requires_grad_()
        maps = model.maps(start, spacing, save_memory=save_memory)
        torch.stack([x.square().sum() for x in maps.values()]).sum().backward()
        assert start.grad is not None and start.grad.abs().sum() > 0
        results.append([*maps.values(), start.grad])
    torch.testing.assert_close(results[0], results[1])
    assert all(map(torch.equal, results[1], results[2]))  # nothing is random


@every
@every_grid
def test_images_of_a_batch_are_independent(name: str, grid: str) -> None:
    shape, spacing = GRIDS[grid]
    model = model_of(name)
    batch = coefficients(model, shape, 0.5, batch=3)
    together, alone = model.maps(batch, spacing), model.maps(batch[1:2], spacing)
    for direction in DIRECTIONS:
        torch.testing.assert_close(together[direction][1:2], alone[direction])
    fields = model.regularized(batch, spacing)
    torch.testing.assert_close(fields.unflatten(0, (3, -1))[1], model.regularized(batch[1:2], spacing))


@every_grid
@pytest.mark.parametrize("name", [name for name, x in PARAMETRIZATIONS.items() if x.diffeomorphic])
def test_diffeomorphisms_do_not_fold(name: str, grid: str) -> None:
    shape, spacing = GRIDS[grid]
    model = model_of(name)
    for displacement in model.maps(coefficients(model, shape, 1.0, batch=4), spacing).values():
        assert displacement.norm(dim=1).amax() > 1
        assert (jacobian_determinant(displacement) > 0).all()


@every
@pytest.mark.parametrize("shape", [(3, 2), (20, 1), (9, 8, 2), (2, 3, 1)], ids=str)
def test_thin_grids(name: str, shape: tuple[int, ...]) -> None:
    spacing = (1.0, 2.0, 4.0)[: len(shape)]
    model = model_of(name)
    given = coefficients(model, shape, 0.1)
    for displacement in model.maps(given, spacing).values():
        assert displacement.shape == (1, len(shape), *shape) and displacement.isfinite().all()
    assert model.resize(given, [2 * n for n in shape], spacing).isfinite().all()


@pytest.mark.parametrize(
    ("name", "setting", "value", "limits"),
    [
        ("bspline_velocity", "control_points", 0.0, "above 0"),
        ("bspline_displacement", "border_ratio", -1.0, "above 0"),
        ("fourier_velocity", "band", 0, "above 0"),
        ("time_dependent_velocity", "times", 0, "of at least 1"),
        ("residual_flow", "lipschitz", 1.0, "above 0 and below 1"),
        ("cpab", "cells", -2.0, "above 0"),
        ("momentum", "alpha", -1.0, "of at least 0"),
    ],
)
def test_settings_out_of_range_are_refused(name: str, setting: str, value: float, limits: str) -> None:
    message = f"setting '{setting}': {value} is out of range. Give a number {limits}."
    with pytest.raises(AtlasmithError, match=message):
        deformation_model(name, {setting: value})


def blobs(shape: tuple[int, ...], shift: float) -> np.ndarray:
    """A textured ellipsoid that a shift also stretches."""
    first, *others = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    first = (first - shift) * (1 - shift)
    radius = np.sqrt(sum(x**2 for x in (first, *others)))
    return np.clip((0.75 - radius) * 10, 0, 1) * (1.2 + np.cos(9 * radius)) * (1.5 + first)


@every
@pytest.mark.parametrize(
    "shape", [(28, 25), pytest.param((28, 24, 20), marks=pytest.mark.slow)], ids=["2d", "3d"]
)
def test_a_pair_is_registered(name: str, shape: tuple[int, ...]) -> None:
    fixed, moving = blobs(shape, 0.0), blobs(shape, 0.15)
    regularization = TemplateSection().regularization
    if not PARAMETRIZATIONS[name].diffeomorphic:
        regularization |= {"folding": {"weight": 10.0}}
    result = register(
        fixed,
        moving,
        (1.0, 1.2, 1.5)[: len(shape)],
        parametrization=name,
        parametrization_settings=SETTINGS.get(name),
        regularization=regularization,
        steps=10,
        learning_rate=0.3,
        levels=1,
        device="cpu",
    )
    assert np.abs(result.warped - fixed).mean() < 0.5 * np.abs(moving - fixed).mean()
    assert result.metrics["nonpositive_jacobian_percent"] < 0.1
