"""Compositions of residual maps: bounded derivatives, and inverses of large ones."""

from __future__ import annotations

import pytest
import torch

from atlasmith.core.fields import compose, to_mm
from atlasmith.core.sampling import sample
from atlasmith.transforms import FORWARD, INVERSE, deformation_model
from atlasmith.transforms.residual import squared_lipschitz


@pytest.mark.parametrize(("shape", "spacing"), [((6, 7), (1.0, 2.5)), ((5, 4, 6), (2.0, 1.0, 1.5))])
def test_the_bound_holds_between_all_points(shape: tuple[int, ...], spacing: tuple[float, ...]) -> None:
    field = torch.randn(2, len(shape), *shape)
    units = torch.tensor(spacing).view(1, -1, 1, 1)
    first = torch.rand(2, len(shape), 40, 50) * (torch.tensor(shape).view(1, -1, 1, 1) + 2) - 1
    for length in (1e-2, 3.0):  # also beyond the image, where border values repeat
        second = first + length * torch.randn_like(first)
        if len(shape) == 3:
            values = [sample(field, x[..., None], padding="border")[..., 0] for x in (first, second)]
        else:
            values = [sample(field, x, padding="border") for x in (first, second)]
        change = (values[1] - values[0]).norm(dim=1)
        distance = ((second - first) * units).norm(dim=1)
        bound = squared_lipschitz(field, spacing).sqrt().view(-1, 1, 1)
        assert (change <= bound * distance + 1e-5).all()


def test_small_residual_maps_are_composed_as_they_are() -> None:
    model, shape = deformation_model("residual_flow", {"times": 2}), (10, 12)
    fields = 0.02 * torch.randn(1, 2, 2, *shape)
    found = model.maps(fields.flatten(1, 2), (1.0, 1.0), [FORWARD])[FORWARD]
    torch.testing.assert_close(found, compose(fields[:, 1] / 2, fields[:, 0] / 2))


@pytest.mark.parametrize("lipschitz", [0.3, 0.5])
def test_wild_coefficients_stay_invertible(lipschitz: float) -> None:
    spacing = (1.0, 2.0)
    model = deformation_model("residual_flow", {"times": 1, "lipschitz": lipschitz})
    maps = model.maps(40 * torch.randn(2, 2, 12, 11), spacing)
    bound = squared_lipschitz(to_mm(maps[FORWARD], spacing), spacing).sqrt()
    torch.testing.assert_close(bound, torch.full((2,), lipschitz))
    error = compose(maps[FORWARD], maps[INVERSE])
    assert float(error.norm(dim=1).max()) < 1e-3
