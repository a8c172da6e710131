"""Decoders of conditional templates: common tests, and learning a nonlinear effect."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from atlasmith.networks import DECODERS, decoders


def build(name: str, size: int, shape: tuple[int, ...], channels: int = 1) -> decoders.CovariateDecoder:
    torch.manual_seed(0)
    return DECODERS[name](size, shape, channels)


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("shape", [(17, 9), (8, 40), (13, 16, 11)])
@pytest.mark.parametrize("channels", [1, 2])
def test_any_size_starts_near_zero(name: str, shape: tuple[int, ...], channels: int) -> None:
    decoder = build(name, 3, shape, channels)
    image = decoder(torch.randn(2, 3))
    assert image.shape == (2, channels, *shape)
    assert image.abs().max() < 1e-3
    torch.nn.init.normal_(decoder.head.weight)
    image = decoder(torch.stack([torch.zeros(3), torch.ones(3)]))
    assert image[0].abs().max() < 1e-5, "at the mean covariates the decoder has no effect"
    assert image[1].std() > 1e-3
    image.square().sum().backward()
    # The bias of the last layer doesn't depend on the covariates, and cancels.
    has_gradient = [float(p.grad.abs().sum()) > 0 for n, p in decoder.named_parameters() if n != "head.bias"]
    assert all(has_gradient)


@pytest.mark.parametrize("name", DECODERS)
def test_zero_head_gives_zero(name: str) -> None:
    decoder = build(name, 2, (9, 8))
    for parameter in decoder.head.parameters():
        parameter.data.zero_()
    assert (decoder(torch.randn(3, 2)) == 0).all()


def discs(code: Tensor, size: int) -> Tensor:
    """Blurred discs (B, 1, size, size) whose radius is least at code 0 (B, 1), less the one there."""
    axis = torch.arange(size) - (size - 1) / 2
    distance = torch.hypot(axis[:, None], axis[None])

    def disc(code: Tensor) -> Tensor:
        return torch.sigmoid(size / 5 + size / 12 * code[:, :, None, None] ** 2 - distance)

    return disc(code) - disc(torch.zeros(1, 1))


@pytest.mark.parametrize("name", DECODERS)
def test_learns_a_nonlinear_effect(name: str) -> None:
    decoder = build(name, 1, (24, 24))
    optimizer = torch.optim.Adam(decoder.parameters(), 1e-2)
    random = torch.Generator().manual_seed(1)
    for _ in range(200):
        code = torch.rand(8, 1, generator=random) * 3 - 1.5
        loss = (decoder(code) - discs(code, 24)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    code = torch.linspace(-1.5, 1.5, 13)[:, None]
    truth = discs(code, 24)
    with torch.no_grad():
        left = (decoder(code) - truth).square().mean() / truth.square().mean()
    assert left < 0.1


def test_chunks_of_positions_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = build("coordinates", 2, (11, 12, 9)).double()
    torch.nn.init.normal_(decoder.head.weight)
    code = torch.randn(2, 2).double()
    results = []
    for chunk in (decoders.POSITIONS_PER_CHUNK, 37):
        monkeypatch.setattr(decoders, "POSITIONS_PER_CHUNK", chunk)
        image = decoder(code)
        weights = [p for name, p in decoder.named_parameters() if name != "head.bias"]  # its gradient is zero
        results.append([image, *torch.autograd.grad(image.square().sum(), weights)])
    torch.testing.assert_close(results[1], results[0], rtol=1e-9, atol=1e-9)


def test_weights_of_coordinates_are_independent_of_the_grid() -> None:
    small, large = (
        sum(p.numel() for p in build("coordinates", 2, shape).parameters())
        for shape in ((8, 8, 8), (80, 96, 112))
    )
    assert small == large < 20_000


@pytest.mark.parametrize("name", DECODERS)
def test_decoders_compute_in_single_precision(name: str) -> None:
    """Autocast of the CPU treats their layers as that of CUDA does."""
    decoder = build(name, 1, (24, 20, 16))
    torch.nn.init.normal_(decoder.head.weight, std=0.1)
    code = torch.tensor([[1.5], [-0.7]])
    expected = decoder(code)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = decoder(code)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert found.std() > 1e-3
