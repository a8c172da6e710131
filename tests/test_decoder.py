"""Decoders of conditional templates: what all have in common, and a change that is no straight line."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from atlasmith.networks import DECODERS
from atlasmith.networks import decoder as module


def made(name: str, size: int, shape: tuple[int, ...]) -> module.Decoder:
    torch.manual_seed(0)
    return DECODERS[name](size, shape)


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("shape", [(17, 9), (8, 40), (13, 16, 11)])
def test_any_size_from_zero(name: str, shape: tuple[int, ...]) -> None:
    decoder = made(name, 3, shape)
    image = decoder(torch.randn(2, 3))
    assert image.shape == (2, 1, *shape)
    assert image.abs().max() < 1e-3
    torch.nn.init.normal_(decoder.head.weight)
    image = decoder(torch.stack([torch.zeros(3), torch.ones(3)]))
    assert image[0].abs().max() < 1e-5, "the mean covariates show the free volume alone"
    assert image[1].std() > 1e-3
    image.square().sum().backward()
    # What is the same for everyone, such as a bias of the last layer, is taken off.
    reached = [float(p.grad.abs().sum()) > 0 for n, p in decoder.named_parameters() if n != "head.bias"]
    assert all(reached)


@pytest.mark.parametrize("name", DECODERS)
def test_silenced_by_its_head(name: str) -> None:
    decoder = made(name, 2, (9, 8))
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
def test_learns_what_no_straight_line_shows(name: str) -> None:
    decoder = made(name, 1, (24, 24))
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


def test_places_in_chunks_are_the_places_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = made("coordinates", 2, (11, 12, 9)).double()
    torch.nn.init.normal_(decoder.head.weight)
    code = torch.randn(2, 2).double()
    answers = []
    for chunk in (module.CHUNK, 37):
        monkeypatch.setattr(module, "CHUNK", chunk)
        image = decoder(code)
        weights = [p for name, p in decoder.named_parameters() if name != "head.bias"]  # its gradient is zero
        answers.append([image, *torch.autograd.grad(image.square().sum(), weights)])
    torch.testing.assert_close(answers[1], answers[0], rtol=1e-9, atol=1e-9)


def test_weights_of_coordinates_dont_grow_with_the_grid() -> None:
    small, large = (
        sum(p.numel() for p in made("coordinates", 2, shape).parameters())
        for shape in ((8, 8, 8), (80, 96, 112))
    )
    assert small == large < 20_000
