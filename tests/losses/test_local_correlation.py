"""The explicit gradient of local correlation, and the sums over windows that it is made of."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from atlasmith.losses.similarity.base import average, standardize
from atlasmith.losses.similarity.filters import BoxWindows, GaussianWindows
from atlasmith.losses.similarity.local_correlation import (
    FLAT_VARIANCE,
    VARIANCE_FLOOR,
    local_correlation,
)

WINDOWS = {
    "narrow": ((12, 11), BoxWindows((3, 4))),
    "wide": ((14, 13, 23), BoxWindows((9, 13, 10))),
    "dilated": ((17, 16), BoxWindows((3, 4), dilation=2, steps=(2, 1))),
    "apart": ((13, 12, 15), BoxWindows((4, 3, 5), dilation=2, steps=(3, 2, 1))),
    "gaussian": ((10, 9, 11), GaussianWindows((5, 4, 3), sigma=1.2)),
}


def random(shape: tuple[int, ...], seed: int, channels: int = 2) -> Tensor:
    """Images (3, channels, *shape) in double precision."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(3, channels, *shape, generator=generator, dtype=torch.float64)


def masks(shape: tuple[int, ...]) -> Tensor:
    """Masks (3, 1, *shape): with a border, with a hole too, and empty."""
    mask = torch.ones(3, 1, *shape, dtype=torch.float64)
    mask[:, :, :1] = 0
    mask[1, :, :, 3] = 0
    mask[2] = 0
    return mask


def matrix(windows: BoxWindows, shape: tuple[int, ...]) -> Tensor:
    """The weights (windows, voxels) of each window, from the definition, in the order of `sums`."""
    axes = []
    for axis, n in enumerate(shape):
        width, dilation = windows.widths[axis], windows.dilation
        step = windows.steps[axis] if windows.steps else 1
        weights = torch.ones(width, dtype=torch.float64)
        if isinstance(windows, GaussianWindows):
            distance = torch.arange(width, dtype=torch.float64) - (width - 1) / 2
            weights = torch.exp(-(distance**2) / (2 * windows.sigma**2))
            weights = weights / weights.sum()
        rows = []
        for start in range(0, n - dilation * (width - 1), step):
            row = torch.zeros(n, dtype=torch.float64)
            row[start : start + dilation * (width - 1) + 1 : dilation] = weights
            rows.append(row)
        axes.append(torch.stack(rows))
    result = axes[0]
    for other in axes[1:]:
        result = torch.kron(result, other)
    return result


@pytest.mark.parametrize("name", WINDOWS)
def test_windows_are_those_of_the_definition(name: str) -> None:
    shape, windows = WINDOWS[name]
    weights, x, mask = matrix(windows, shape), random(shape, 0), masks(shape)
    sums = windows.sums(x)
    torch.testing.assert_close(sums.flatten(2), x.flatten(2) @ weights.T)
    spread = windows.spread(sums, shape)
    torch.testing.assert_close(spread.flatten(2), sums.flatten(2) @ weights)
    inside = (mask.flatten(2) @ (weights > 0).double().T) == (weights > 0).sum(1)
    assert torch.equal(windows.inside(mask > 0.5).flatten(2), inside)
    assert weights.sum(1).numpy() == pytest.approx(windows.weight)


def by_autograd(fixed: Tensor, moved: Tensor, mask: Tensor | None, windows: BoxWindows) -> Tensor:
    """The formula on standardized images, whose gradient is autograd's."""
    weights = matrix(windows, tuple(fixed.shape[2:])) / windows.weight
    f, m = (standardize(x, mask).flatten(2) for x in (fixed, moved))
    mean_f, mean_m, ff, mm, fm = (x @ weights.T for x in (f, m, f * f, m * m, f * m))
    variance_f, variance_m = ff - mean_f**2, mm - mean_m**2
    correlation = (fm - mean_f * mean_m) ** 2 / (variance_f * variance_m + VARIANCE_FLOOR)
    counts = (variance_f > FLAT_VARIANCE) | (variance_m > FLAT_VARIANCE)
    if mask is not None:
        counts = counts & (mask.flatten(2) @ (weights > 0).double().T == (weights > 0).sum(1))
    return average(correlation * counts) / average(counts.double()).clamp(min=1e-12)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", WINDOWS)
def test_values_and_gradients_are_autograds(name: str, masked: bool) -> None:
    shape, windows = WINDOWS[name]
    images, mask = [random(shape, 1), random(shape, 2)], masks(shape) if masked else None
    images[0][0, :, shape[0] // 2 :] = 0.4  # windows that are flat in one image, and in both
    images[1][0, :, shape[0] // 2 :, 4:] = 0.7
    found = []
    for function in (local_correlation, by_autograd):
        fixed, moved = (x.clone().requires_grad_() for x in images)
        value = function(fixed, moved, mask, windows)
        upstream = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
        found.append((value, *torch.autograd.grad(value, (fixed, moved), upstream)))
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-12)


def test_only_what_needs_a_gradient_has_one() -> None:
    shape, windows = WINDOWS["narrow"]
    fixed, moved = random(shape, 1), random(shape, 2)
    both = [x.clone().requires_grad_() for x in (fixed, moved)]
    expected = torch.autograd.grad(local_correlation(*both, None, windows).sum(), both)
    for index in (0, 1):
        given = [fixed, moved]
        given[index] = given[index].clone().requires_grad_()
        value = local_correlation(*given, None, windows)
        (gradient,) = torch.autograd.grad(value.sum(), given[index])
        torch.testing.assert_close(gradient, expected[index])
    with torch.no_grad():
        assert not local_correlation(*both, None, windows).requires_grad


def test_an_offset_costs_no_digits() -> None:
    """Intensities far from zero, in single precision."""
    shape, windows = WINDOWS["wide"]
    fixed, moved = random(shape, 1, 1), random(shape, 2, 1)
    expected = local_correlation(fixed, moved, None, windows)
    found = local_correlation((fixed + 100).float(), (moved + 100).float(), None, windows)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=0)
