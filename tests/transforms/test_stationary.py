"""Stationary velocity fields as a parametrization."""

import pytest
import torch

from atlasmith.core.fields import exponentiate
from atlasmith.transforms import (
    DIRECTIONS,
    FORWARD,
    INVERSE,
    PARAMETRIZATIONS,
    Coefficients,
    deformation_model,
)


def test_coefficients_are_sampled_from_their_posterior() -> None:
    mean = torch.ones(1, 2, 3, 3)
    noise = torch.randn_like(mean)
    log_variance = torch.full_like(mean, 2.0).log()
    torch.testing.assert_close(Coefficients(mean, log_variance, noise).sampled, mean + 2**0.5 * noise)
    assert Coefficients(mean, log_variance).sampled is mean


@pytest.mark.parametrize("shape", [(8, 9), (6, 7, 5)])
def test_maps_are_exponentials_of_the_velocity_and_its_negative(shape: tuple[int, ...]) -> None:
    velocity, spacing = torch.randn(2, len(shape), *shape), (1.0,) * len(shape)
    entry = PARAMETRIZATIONS["stationary_velocity"]
    assert entry.diffeomorphic and not entry.settings
    model = deformation_model(integration_steps=5)
    maps = model.maps(velocity, spacing)
    assert tuple(maps) == DIRECTIONS
    torch.testing.assert_close(maps[FORWARD], exponentiate(velocity, 5))
    torch.testing.assert_close(maps[INVERSE], exponentiate(-velocity, 5))
    assert set(model.maps(velocity, spacing, directions=[INVERSE])) == {INVERSE}
