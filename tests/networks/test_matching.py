"""Matching by attention to offsets: equal to brute force, and exact for planted shifts."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from atlasmith.networks import NETWORKS
from atlasmith.networks.correlation import correlation_offsets
from atlasmith.networks.registration.matching import DisplacementBases, MotionModes, attended_offsets


@pytest.mark.parametrize(("shape", "reach"), [((4, 5), 2), ((3, 4, 2), 1)], ids=str)
def test_attended_offsets_equal_attention(shape: tuple[int, ...], reach: int) -> None:
    heads, width = 2, 3
    query, key = torch.randn(2, 2, heads * width, *shape)
    offsets = correlation_offsets(len(shape), reach)
    bias = torch.randn(heads, len(offsets))
    found = attended_offsets(query, key, bias, reach)
    assert found.shape == (2, heads, len(shape), *shape)
    margin = [reach] * (2 * len(shape))
    padded = nn.functional.pad(key, margin)
    for x in itertools.product(*map(range, shape)):
        window = padded[:, :, *(slice(a, a + 2 * reach + 1) for a in x)].flatten(2)
        for head in range(heads):
            rows = slice(head * width, (head + 1) * width)
            expected = nn.functional.scaled_dot_product_attention(
                query[:, rows, *x][:, None], window[:, rows].mT, offsets.expand(2, -1, -1), bias[head][None]
            )
            torch.testing.assert_close(found[:, head, :, *x], expected[:, 0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("shape", "shifts"), [((9, 8), [(1, -2), (0, 2)]), ((7, 8, 6), [(1, 0, -1)])], ids=str
)
def test_each_head_finds_its_shift_exactly(shape: tuple[int, ...], shifts: list[tuple[int, ...]]) -> None:
    """Each voxel has a feature of its own; each head sees the image moved by another shift."""
    count, axes, reach = int(np.prod(shape)), list(range(2, 2 + len(shape))), 2
    key = torch.eye(count).view(1, count, *shape)
    query = torch.cat([1e4 * key.roll([-s for s in shift], dims=axes) for shift in shifts], dim=1)
    bias = torch.zeros(len(shifts), (2 * reach + 1) ** len(shape))
    found = attended_offsets(query, key.repeat(1, len(shifts), *[1] * len(shape)), bias, reach)
    inner = found[..., *[slice(2, -2)] * len(shape)]
    expected = torch.tensor(shifts, dtype=torch.float32).view(1, len(shifts), -1, *[1] * len(shape))
    torch.testing.assert_close(inner, expected.expand_as(inner), atol=0, rtol=0)


def test_modes_compete() -> None:
    """The result is the mode of the head that wins, of those that the projections see."""
    torch.manual_seed(0)
    level = MotionModes(2, 6, 2, heads=2, reach=1)
    level.head, features = nn.Identity(), torch.randn(2, 1, 6, 5, 4)
    query, key = (level.norm(level.project(x).movedim(1, -1)).movedim(-1, 1) for x in features)
    modes = attended_offsets(query, key, level.bias, 1)
    assert level.compete is not None
    for winner in range(2):
        level.compete[-1].bias.data = torch.tensor([1e3, 0.0] if winner == 0 else [0.0, 1e3])
        torch.testing.assert_close(level(*features), modes[:, winner])


def test_displacements_are_means_of_basis_vectors() -> None:
    torch.manual_seed(0)
    level = DisplacementBases(2, 6, 2, heads=2, bases=3)
    level.head, features = nn.Identity(), torch.randn(2, 1, 6, 5, 4)
    found = level(*features).unflatten(1, (2, 2))
    low, high = (x.values.view(1, 2, 2, 1, 1) for x in (level.bases.min(1), level.bases.max(1)))
    assert ((low <= found) & (found <= high)).all()
    level.weigh[-1].bias.data = torch.tensor([0, 1e4, 0, 1e4, 0, 0])
    expected = torch.stack([level.bases[0, 1], level.bases[1, 0]]).view(1, 2, 2, 1, 1).expand(1, 2, 2, 5, 4)
    torch.testing.assert_close(level(*features).unflatten(1, (2, 2)), expected)


@pytest.mark.parametrize(
    ("name", "settings"),
    [("im2grid", {"reach": 2}), ("modet", {"heads": 3}), ("deformer", {"heads": 2, "bases": 5})],
    ids=str,
)
def test_settings_of_the_networks(name: str, settings: dict[str, int]) -> None:
    network = NETWORKS[name](3, 1, 6, [4, 8, 8], **settings)
    assert network(*torch.rand(2, 1, 1, 14, 12, 3)).shape == (1, 6, 7, 6, 2)
