"""Velocities of regions that slide along each other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, map_coordinates
from torch import Tensor

from atlasmith.core.fields import exponentiate
from atlasmith.core.grid import DisplacementField, Grid
from atlasmith.networks import CovariateCode, Groupwise
from atlasmith.optimization import instance_objective
from atlasmith.optimization.refinement import refine
from atlasmith.registration import register
from atlasmith.transforms import DIRECTIONS, FORWARD, RegionVelocity, deformation_model

SIZE, SHIFT = 48, 3.0
SHAPES = pytest.mark.parametrize("shape", [(16, 12), (10, 12, 8)], ids=["2d", "3d"])


def halves(shape: tuple[int, ...]) -> tuple[RegionVelocity, Tensor]:
    """Two regions that differ along the second axis, moving along the first by 1.5 and by -2 voxels."""
    model, ndim = RegionVelocity(6, regions=2), len(shape)
    coefficients = torch.zeros(1, model.channels(ndim), *shape)
    coefficients[:, 0], coefficients[:, ndim] = 1.5, -2.0
    middle = shape[1] // 2
    coefficients[:, 2 * ndim, :, :middle] = 40.0
    coefficients[:, 2 * ndim + 1, :, middle:] = 40.0
    return model, coefficients


@SHAPES
def test_halves_slide_in_both_directions(shape: tuple[int, ...]) -> None:
    model, coefficients = halves(shape)
    spacing, middle = (1.0,) * len(shape), shape[1] // 2
    for direction, found in model.maps(coefficients, spacing).items():
        expected = torch.zeros_like(found)
        expected[:, 0, :, :middle], expected[:, 0, :, middle:] = 1.5 * direction, -2.0 * direction
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)
    fields = model.regularized(coefficients, spacing)
    assert len(fields) == 2 and not torch.stack(torch.gradient(fields, dim=(2, 3))).any()


@SHAPES
def test_equal_velocities_are_one_velocity(shape: tuple[int, ...]) -> None:
    model, spacing = RegionVelocity(6), (1.0, 2.0, 1.5)[: len(shape)]
    image = torch.rand(2, 1, *(2 * n for n in shape))
    velocity = torch.randn(2, len(shape), *shape)
    coefficients = model.lift(velocity, spacing) + model.initial(image, shape)
    for direction, found in model.maps(coefficients, spacing).items():
        torch.testing.assert_close(found, exponentiate(direction * velocity, 6), atol=1e-5, rtol=1e-4)
    other = model.compose(coefficients, model.lift(0 * velocity, spacing), spacing)
    torch.testing.assert_close(other, coefficients)


def test_resizing_scales_velocities_and_not_logits() -> None:
    model, coefficients = halves((16, 12))
    resized = model.resize(coefficients, (31, 12), (2.0, 1.0))
    torch.testing.assert_close(resized[:, 0], torch.full((1, 31, 12), 3.0))
    assert resized[:, 4:].max() == 40 and resized.shape[1] == coefficients.shape[1] == 6


@pytest.mark.parametrize("ndim", [2, 3])
def test_regions_start_from_classes_of_the_image(ndim: int) -> None:
    model, shape = RegionVelocity(6, regions=3), (6, 7, 4)[:ndim]
    assert model.channels(ndim) % ndim == 0
    classes = torch.randint(3, (2, *shape), generator=torch.Generator().manual_seed(0))
    image = torch.tensor([0.0, 0.35, 1.0])[classes][:, None]
    memberships = model.memberships(model.initial(image, shape))
    assert torch.equal(memberships.argmax(1), classes)
    assert memberships.amax(1).min() > 0.95 and memberships.sum(1).allclose(torch.ones(2, *shape))
    # Label probabilities beside the intensities decide where these don't.
    labels = torch.stack([(classes == 0).float(), (classes > 0).float()], dim=1)
    features = torch.cat([0.05 * torch.rand(2, 1, *shape) + 0.1 * labels[:, :1], labels], dim=1)
    found = RegionVelocity(6, regions=2)
    memberships = found.memberships(found.initial(features, shape))
    assert torch.equal(memberships[:, 1] > 0.95, classes == 0)
    constant = model.initial(torch.ones(1, 1, *shape), shape)
    assert torch.equal(constant, torch.zeros_like(constant))


def sliding_halves() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A bright and a dark half of an image that slide along their border: the fixed and the moving image, and
    the displacement along the first axis (1, Y)."""
    noise = np.random.default_rng(1).normal(size=(SIZE, SIZE))
    texture = gaussian_filter(noise, [2.5, 2.0], mode="wrap")
    texture = np.clip(texture / texture.std(), -2, 2)
    bright = np.arange(SIZE)[None] >= SIZE // 2
    shift = np.where(bright, SHIFT, -SHIFT)
    x, y = np.mgrid[:SIZE, :SIZE].astype(float)
    moved = map_coordinates(texture, [x - shift, y], order=3, mode="grid-wrap")
    return *(np.where(bright, 0.65, 0.2) + 0.08 * values for values in (texture, moved)), shift


def test_a_sliding_plane_is_recovered_with_a_sharp_step() -> None:
    fixed, moving, shift = sliding_halves()
    profiles = {}
    for name, settings in {"region_velocity": {"regions": 2}, "stationary_velocity": {}}.items():
        chosen: dict[str, Any] = {"parametrization": name, "parametrization_settings": settings}
        result = register(fixed, moving, **chosen, levels=2, device="cpu")
        (field,) = (step for step in result.forward if isinstance(step, DisplacementField))
        profiles[name] = field.vectors[8:-8, :, 0, 0].mean(0)
    errors = {name: np.abs(profile - shift[0]) for name, profile in profiles.items()}
    # Two voxels of the full resolution are one of the coefficients.
    near = [SIZE // 2 - 4, SIZE // 2 - 3, SIZE // 2 + 2, SIZE // 2 + 3]
    assert errors["region_velocity"][near].max() < 0.6
    assert errors["stationary_velocity"][near].max() > 1.2
    assert errors["region_velocity"][4:-4].mean() < 0.7 * errors["stationary_velocity"][4:-4].mean()


@pytest.mark.parametrize("network", ["quicksilver", "unet_half"])
def test_networks_and_cascades_start_from_the_classes_of_the_template(network: str) -> None:
    torch.manual_seed(0)
    settings = {"correction": True} if network == "quicksilver" else {}
    model = Groupwise(
        Grid((20, 17, 1), np.eye(4)),
        CovariateCode({}, {}),
        network,
        [4, 8],
        4,
        cascades=2,
        parametrization="region_velocity",
        network_settings=settings,
    )
    template, image = torch.rand(2, 2, 1, 20, 17)
    found = model.coefficients(template, image).mean
    identity = model.deformation.initial(template, found.shape[2:])
    assert found.shape == (2, 10, 10, 9) and (found - identity).abs().max() < 0.05
    maps = model.deformation.maps(found, (2.0, 2.0))
    assert tuple(maps) == DIRECTIONS and maps[FORWARD].abs().max() < 0.05
    found.sum().backward()
    assert all(p.grad is not None for p in model.network.parameters())


def test_a_displacement_is_fitted_by_regions_of_one_velocity() -> None:
    model = deformation_model("region_velocity")
    found = model.fit(torch.full((1, 2, 8, 8), 0.5), (1.0, 1.0))
    torch.testing.assert_close(found[:, :6], torch.full((1, 6, 8, 8), 0.5))
    assert not found[:, 6:].any()


def test_a_displacement_that_a_search_found_keeps_the_classes() -> None:
    image = ((torch.arange(24) // 6) % 2).float().view(1, 1, 24, 1).expand(1, 1, 24, 16)
    model = deformation_model("region_velocity")
    objective = instance_objective(
        image,
        image.roll(2, dims=2),
        torch.ones_like(image),
        Grid((24, 16, 1), np.eye(4)),
        deformation=model,
        similarity={"mse": {"weight": 1.0}},
        regularization={"diffusion": {"weight": 1e-3}},
    )
    identity = model.initial(image, (12, 8))
    shift = torch.zeros(1, 2, 12, 8)
    shift[:, 0] = 0.95  # half-resolution voxels
    best = refine(objective, identity, shift, steps=1, learning_rate=0.01)[0]
    assert (best[:, 0] - 0.95).abs().amax() < 0.05
    torch.testing.assert_close(best[:, 6:], identity[:, 6:])
