"""Devices, precision and seeded random numbers."""

import pytest
import torch

from atlasmith.core.errors import AtlasmithError
from atlasmith.training.device import autocast, seeded_generator, select_device


def test_random_numbers_depend_on_seed_and_stream_alone() -> None:
    def draw(*stream: int) -> list[float]:
        return torch.rand(3, generator=seeded_generator(0, *stream)).tolist()

    assert draw(1, 2) == draw(1, 2)
    assert len({tuple(draw(*stream)) for stream in [(1, 2), (2, 1), (12,), (0, 12), (1,)]}) == 5


def test_a_missing_gpu_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert select_device("auto") == select_device("cpu") == torch.device("cpu")
    with pytest.raises(AtlasmithError, match="device: cpu"):
        select_device("cuda")


@pytest.mark.parametrize(
    ("device", "precision", "half"),
    [
        ("cpu", "auto", False),
        ("cpu", "bfloat16", True),
        ("cuda", "auto", True),
        ("cuda", "float32", False),
    ],
)
def test_precision_by_device(device: str, precision: str, half: bool) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU")
    layer = torch.nn.Linear(2, 2).to(device)
    with autocast(torch.device(device), precision):
        assert layer(torch.ones(1, 2, device=device)).dtype == (torch.bfloat16 if half else torch.float32)
