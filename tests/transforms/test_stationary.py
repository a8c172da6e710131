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


def test_what_is_fitted_to_a_large_displacement_is_the_nearest_found() -> None:
    """Of a disk that turns by 1.8 radians, whose corrections come no nearer in the end; the others of its
    batch, a small one and one that isn't finite, don't matter."""
    x = torch.stack(torch.meshgrid(*[torch.arange(33.0) - 16] * 2, indexing="ij"))
    angle = 1.8 * torch.exp(-x.square().sum(0) / 60)
    turned = torch.stack([angle.cos() * x[0] - angle.sin() * x[1], angle.sin() * x[0] + angle.cos() * x[1]])
    displacement = torch.stack([turned - x, 0.05 * (turned - x), torch.full_like(x, torch.nan)])
    model, spacing = deformation_model(), (1.0, 1.0)

    def error(found: torch.Tensor) -> torch.Tensor:
        rest = model.maps(found, spacing, [FORWARD])[FORWARD] - displacement
        return rest.square().mean(dim=(1, 2, 3)).sqrt()

    fitted = model.fit(displacement, spacing)
    errors = error(fitted)
    assert errors[0] < 0.25 * error(displacement)[0] and errors[1] < 1e-4
    alone = model.fit(displacement[:1], spacing)
    torch.testing.assert_close(fitted[:1], alone)
