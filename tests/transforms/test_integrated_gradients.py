"""Integrated derivatives: monotone coordinates, and no preferred border."""

from __future__ import annotations

import torch

from atlasmith.core.fields import compose
from atlasmith.transforms import FORWARD, deformation_model

MODEL = deformation_model("integrated_gradients")
SPACING = (1.0, 1.0)


def forward(coefficients: torch.Tensor) -> torch.Tensor:
    return MODEL.maps(coefficients, SPACING, [FORWARD])[FORWARD]


def test_coordinates_increase_along_their_own_axis() -> None:
    displacement = forward(5 * torch.randn(2, 3, 9, 8, 7))
    for axis in range(3):
        assert (1 + displacement[:, axis].diff(dim=1 + axis) > -1e-5).all()


def test_derivatives_are_those_of_the_coefficients_where_they_stretch() -> None:
    steps = torch.tensor([0.5, 0.0, -2.0, 1.0])
    coefficients = torch.cat([torch.zeros(1), steps.cumsum(0)]).view(1, 1, 5, 1).repeat(1, 2, 1, 3)
    coefficients[:, 1] = 0
    found = forward(coefficients)
    expected = torch.tensor([0.5, 0.0, torch.tensor(-2.0).exp() - 1, 1.0])
    torch.testing.assert_close(found[0, 0, :, 0].diff(), expected)
    torch.testing.assert_close(found.mean(), coefficients.mean())


def test_translations_are_kept() -> None:
    shift = torch.full((1, 2, 6, 5), 2.5)
    torch.testing.assert_close(forward(shift), shift)


def test_both_borders_are_alike() -> None:
    coefficients = torch.randn(1, 2, 9, 8)
    mirrored = coefficients.flip(2) * torch.tensor([-1.0, 1.0]).view(1, 2, 1, 1)
    found = forward(mirrored).flip(2) * torch.tensor([-1.0, 1.0]).view(1, 2, 1, 1)
    torch.testing.assert_close(found, forward(coefficients), atol=1e-5, rtol=0)


def test_fit_and_composition_are_exact() -> None:
    outer, inner = (0.1 * torch.randn(1, 2, 9, 8) for _ in range(2))
    torch.testing.assert_close(MODEL.fit(forward(outer), SPACING), outer, atol=1e-5, rtol=0)
    composed = compose(forward(outer), forward(inner))
    found = forward(MODEL.compose(outer, inner, SPACING))
    torch.testing.assert_close(found, composed, atol=1e-5, rtol=0)
