"""Principal components of fields, and velocities in their span."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from second_device import SecondDevice, to_device, to_host

from atlasmith.core.fields import exponentiate, resize_displacement
from atlasmith.training.device import seeded_generator
from atlasmith.transforms import FORWARD, LowRankVelocity, mean_square_mm, modes, principal_modes

SPACING = (1.0, 2.5)


@pytest.mark.parametrize("block_bytes", [1, 2000, 2**27])
def test_modes_are_those_of_a_singular_value_decomposition(
    block_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modes, "BLOCK_BYTES", block_bytes)
    fields = torch.randn(7, 2, 6, 5, generator=seeded_generator(0, 0)).double()
    scale = np.sqrt(np.square(SPACING) / 30)[:, None, None]
    data = (scale * fields.numpy()).reshape(7, -1)
    _, values, axes = np.linalg.svd(data - data.mean(0), full_matrices=False)
    found = principal_modes(lambda i: fields[[i]], 7, 4, mean_square_mm(SPACING))
    torch.testing.assert_close(found.mean, fields.mean(0))
    np.testing.assert_allclose(found.variances, values[:4] ** 2 / 6)
    np.testing.assert_allclose(found.explained, values[:4] ** 2 / np.sum(values**2))
    own = scale * found.fields.numpy()
    for mode, axis, value in zip(own, axes, values, strict=False):
        cosine = mode.ravel() @ axis
        assert abs(cosine) == pytest.approx(value / 6**0.5)
        scores = (data - data.mean(0)) @ axis * np.sign(cosine)
        assert scores[np.abs(scores).argmax()] > 0


def test_there_are_fewer_modes_than_subjects() -> None:
    found = principal_modes(lambda i: torch.full((1, 2, 4, 4), float(i)), 3, 10, mean_square_mm((1.0, 1.0)))
    assert found.fields.shape == (2, 2, 4, 4) and found.explained == pytest.approx([1.0, 0.0])


def test_low_rank_velocities_are_the_nearest_in_the_span() -> None:
    basis = torch.randn(3, 2, 8, 7, generator=seeded_generator(0, 1))
    basis[2] = 0  # a mode without variance
    model, code = LowRankVelocity(6, basis), torch.tensor([[0.3, -1.2, 0.0], [1.0, 0.5, 0.0]])
    inside = torch.einsum("bk,k...->b...", code, basis)
    torch.testing.assert_close(model.scores(inside, SPACING), code, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(model.tangent(inside, SPACING), inside, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        model.maps(0.2 * inside, SPACING)[FORWARD], exponentiate(0.2 * inside, 6), atol=1e-4, rtol=1e-4
    )
    other = torch.randn(2, 2, 8, 7, generator=seeded_generator(0, 2))
    left = other - model.tangent(other, SPACING)
    products = left.flatten(1) @ (mean_square_mm(SPACING)(basis)).flatten(1).T
    torch.testing.assert_close(products, torch.zeros(2, 3), atol=1e-5, rtol=0)


def test_both_on_a_gpu(second_device: SecondDevice) -> None:
    def modes_and_map(fields: torch.Tensor) -> list[torch.Tensor]:
        found = principal_modes(lambda i: fields[i : i + 1], len(fields), 3, mean_square_mm(SPACING)).fields
        return [found, LowRankVelocity(4, found).maps(fields[:2], SPACING)[FORWARD]]

    fields = torch.randn(5, 2, 8, 7, generator=seeded_generator(0, 3))
    expected = modes_and_map(fields)
    torch.testing.assert_close(to_host(modes_and_map(to_device(fields))), expected)
    velocity, model = to_device(fields[:2]), LowRankVelocity(4, to_device(expected[0]))
    second_device.clear()
    model.maps(velocity, SPACING)
    assert not second_device.waits, second_device.waits


def test_the_code_is_the_same_on_another_grid() -> None:
    x, y = torch.meshgrid(torch.linspace(-1, 1, 12), torch.linspace(-1, 1, 9), indexing="ij")
    basis = torch.stack([torch.stack([x, y**2]), torch.stack([y.cos(), -x])])
    model, velocity = LowRankVelocity(6, basis), (0.5 * basis[0] - 2 * basis[1])[None]
    finer = model.resize(velocity, (23, 17), SPACING)
    torch.testing.assert_close(finer, resize_displacement(velocity, (23, 17)), atol=1e-4, rtol=1e-4)
    half = [size / 2 for size in SPACING]
    torch.testing.assert_close(model.scores(finer, half), torch.tensor([[0.5, -2.0]]), atol=1e-3, rtol=1e-3)
