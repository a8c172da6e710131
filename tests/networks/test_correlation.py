"""Cost volumes: equal to sums over voxels, with the right gradient."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from atlasmith.networks.correlation import correlate, correlation_offsets


@pytest.mark.parametrize(
    ("shape", "reach", "stride"),
    [((5, 7), 2, 1), ((6, 4), 1, 3), ((3, 4, 2), 1, 2), ((3, 3, 3), 0, 1)],
    ids=str,
)
def test_equals_brute_force(shape: tuple[int, ...], reach: int, stride: int) -> None:
    fixed, moved = torch.randn(2, 2, 3, *shape)
    found = correlate(fixed, moved, reach, stride)
    offsets = correlation_offsets(len(shape), reach, stride)
    assert found.shape == (2, len(offsets), *shape)
    for k, offset in enumerate(offsets.int().numpy()):
        expected = np.zeros((2, *shape))
        for x in itertools.product(*map(range, shape)):
            y = tuple(np.add(x, offset))
            if all(0 <= a < n for a, n in zip(y, shape, strict=True)):
                expected[:, *x] = (fixed[:, :, *x] * moved[:, :, *y]).mean(1)
        np.testing.assert_allclose(found[:, k], expected, atol=1e-6)


@pytest.mark.parametrize("shape", [(5, 4), (3, 4, 2)], ids=str)
def test_gradient_is_that_of_autograd(shape: tuple[int, ...]) -> None:
    features = torch.randn(2, 2, 3, *shape).double().requires_grad_()
    fixed, moved = features
    padded = torch.nn.functional.pad(moved, [4] * (2 * len(shape)))
    maps = []
    for offset in correlation_offsets(len(shape), 1, 4).int().tolist():
        window = [slice(4 + start, 4 + start + n) for start, n in zip(offset, shape, strict=True)]
        maps.append((fixed * padded[:, :, *window]).mean(1))
    weights = torch.randn(2, 3 ** len(shape), *shape).double()
    expected, found = (
        torch.autograd.grad((volume * weights).sum(), features, retain_graph=True)[0]
        for volume in (torch.stack(maps, dim=1), correlate(fixed, moved, 1, 4))
    )
    torch.testing.assert_close(found, expected)


def test_gradient_of_half_precision_is_summed_in_single_precision() -> None:
    """The sum of 441 equal products, of which half precision would lose a third."""
    fixed, moved = torch.ones(2, 1, 1, 48, 48).bfloat16().requires_grad_()
    (gradient,) = torch.autograd.grad(correlate(fixed, moved, 10)[..., 24, 24].sum(), fixed)
    assert gradient[0, 0, 24, 24] == 440  # 441, rounded once


def test_finds_integer_shifts() -> None:
    fixed = torch.nn.functional.normalize(torch.randn(1, 8, 12, 12), dim=1)
    moved = fixed.roll((2, -3), dims=(2, 3))
    best = correlate(fixed, moved, 3).argmax(1)[0, 3:-3, 3:-3]
    assert (correlation_offsets(2, 3)[best] == torch.tensor([2.0, -3.0])).all()
