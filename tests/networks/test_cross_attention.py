"""Networks of two branches that attend to each other."""

from __future__ import annotations

import pytest
import torch

from atlasmith.networks import NETWORKS
from atlasmith.networks.registration.coarse_to_fine import encode

SETTINGS = [
    ("xmorpher", {}),
    ("xmorpher", {"margin": 4}),
    ("transmatch", {}),
    ("transmatch", {"deformable": True}),
    ("dtn", {}),
    ("dtn", {"within": False}),
]


def test_a_margin_larger_than_a_window_is_refused() -> None:
    assert NETWORKS["xmorpher"].setting_problem("margin", 4) is None
    found, remedy = NETWORKS["xmorpher"].setting_problem("margin", 5) or ("", "")
    assert found == "5 is out of range"
    assert remedy.startswith("Give a number from 0 to 4.")


@pytest.mark.parametrize(("name", "settings"), SETTINGS, ids=str)
def test_swapping_the_images_swaps_their_features(name: str, settings: dict[str, float]) -> None:
    torch.manual_seed(0)
    network = NETWORKS[name](3, 1, 3, [4, 8, 6], **settings)
    for parameter in network.parameters():  # offsets of deformable windows start near zero
        parameter.data += 0.1 * torch.randn_like(parameter)
    fixed, moving = torch.rand(2, 2, 1, 16, 24, 16)
    found = encode(network.encoder, torch.cat([fixed, moving]))
    swapped = encode(network.encoder, torch.cat([moving, fixed]))
    alone = encode(network.encoder, torch.cat([fixed, fixed]))
    for level, (x, y, z) in enumerate(zip(found, swapped, alone, strict=True)):
        torch.testing.assert_close(y, x.roll(2, 0))
        exchanged = level > 0 if name != "dtn" else level == 2
        assert torch.allclose(x[:2], z[:2], atol=1e-5) != exchanged
