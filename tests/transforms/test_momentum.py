"""Geodesics of initial momenta."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from atlasmith.core.bsplines import spread
from atlasmith.core.cosines import cosines
from atlasmith.core.fields import compose, exponentiate, jacobian_determinant
from atlasmith.core.sampling import warp
from atlasmith.training.device import seeded_generator
from atlasmith.transforms import FORWARD, INVERSE, Momentum, principal_modes

GRIDS = pytest.mark.parametrize(
    ("shape", "spacing"), [((24, 20), (1.0, 1.5)), ((12, 14, 10), (2.0, 1.5, 1.0))], ids=["2d", "3d"]
)


def rough(shape: tuple[int, ...], scale: float = 6.0) -> Tensor:
    """Momenta that differ from voxel to voxel, as after steps of an optimizer."""
    noise = torch.randn(2, len(shape), *shape, generator=seeded_generator(0, 0), dtype=torch.float64)
    return scale * noise


def smooth(shape: tuple[int, ...], modes: int = 5) -> Tensor:
    spectrum = torch.randn(1, len(shape), *[modes] * len(shape), generator=seeded_generator(0, 1)).double()
    return spread(spectrum, [(n / modes) ** 0.5 * cosines(n, modes, spectrum) for n in shape])


@GRIDS
def test_the_energy_is_conserved_to_the_order_of_the_integrator(
    shape: tuple[int, ...], spacing: tuple[float, ...]
) -> None:
    momentum, errors = rough(shape), []
    for time_steps in (4, 8, 16):
        model = Momentum(6, time_steps=time_steps)
        energies = [model.energy(m, spacing) for m in (momentum, model.shoot(momentum, spacing)[1])]
        errors.append(float((energies[1] / energies[0] - 1).abs().max()))
    assert model.tangent(momentum, spacing).abs().max() > 2.5
    assert errors[1] < errors[0] / 12 and errors[2] < errors[1] / 12
    assert errors[2] < 1e-4


@GRIDS
def test_the_negative_momentum_at_the_end_shoots_back(
    shape: tuple[int, ...], spacing: tuple[float, ...]
) -> None:
    momentum, errors = 0.7 * smooth(shape, 3), []
    for time_steps in (4, 8):
        model = Momentum(6, time_steps=time_steps)
        forward, end = model.shoot(momentum, spacing)
        back, start = model.shoot(-end, spacing)
        maps = model.maps(momentum, spacing)
        assert torch.equal(maps[FORWARD], forward) and forward.norm(dim=1).max() > 0.7
        errors.append(float((back - maps[INVERSE]).abs().max() + (start + momentum).abs().max()))
    assert errors[1] < errors[0] / 10 and errors[1] < 0.02
    # What remains is the linear interpolation of displacements.
    inner = (..., *[slice(2, -2)] * len(shape))
    assert compose(back, forward)[inner].norm(dim=1).mean() < 0.03 * forward.norm(dim=1).mean()
    for displacement in maps.values():
        assert (jacobian_determinant(displacement) > 0).all()


def test_the_momentum_is_carried_by_the_map() -> None:
    """m_1 = |D psi| (D psi)^T m_0(psi), where psi is the inverse map (Miller et al. 2006)."""
    shape, spacing = (80, 72), (1.0, 1.0)
    window = torch.stack(torch.meshgrid(*(torch.hann_window(n, False) for n in shape), indexing="ij")).prod(0)
    model, momentum = Momentum(6, alpha=4.0), 5 * window * smooth(shape, 6)
    inverse, end = model.maps(momentum, spacing)[INVERSE], model.shoot(momentum, spacing)[1]
    carried = warp(momentum, inverse, padding="border")
    slopes = torch.gradient(inverse, dim=(2, 3))
    expected = torch.stack(
        [carried[:, axis] + (slope * carried).sum(1) for axis, slope in enumerate(slopes)], 1
    )
    expected = expected * jacobian_determinant(inverse)[:, None]
    assert (end - momentum).norm() > 0.3 * momentum.norm()
    assert (end - expected).norm() < 0.05 * (end - momentum).norm()


def test_a_constant_momentum_shifts() -> None:
    shape, spacing = (40, 44), (1.0, 1.2)
    shift = torch.tensor([1.0, -0.5]).view(1, 2, 1, 1).expand(1, 2, *shape)
    model = Momentum(6, gamma=0.5)
    assert not model.maps(0 * shift, spacing)[FORWARD].any()
    torch.testing.assert_close(model.tangent(shift, spacing), shift)
    inner = (..., slice(14, -14), slice(14, -14))  # at the border the momentum piles up
    for direction, found in model.maps(shift, spacing).items():
        torch.testing.assert_close(found[inner], direction * shift[inner], atol=0.01, rtol=0)


@GRIDS
def test_momenta_beyond_the_stable_ones_stay_finite(
    shape: tuple[int, ...], spacing: tuple[float, ...]
) -> None:
    for found in Momentum(6).maps(rough(shape, 100.0).float(), spacing).values():
        assert found.isfinite().all()


def test_the_kernel_inverts_the_operator() -> None:
    model, spacing, momentum = Momentum(6, alpha=2.0, gamma=0.5, power=2.0), (1.0, 1.5), rough((9, 7))
    velocity = model.tangent(momentum, spacing)
    for _ in range(2):
        laplacian = torch.zeros_like(velocity)
        for axis, size in enumerate(spacing, start=2):
            ends = velocity.narrow(axis, 0, 1), velocity.narrow(axis, velocity.shape[axis] - 1, 1)
            laplacian += torch.cat([ends[0], velocity, ends[1]], axis).diff(n=2, dim=axis) / size**2
        velocity = 0.5 * velocity - 2.0 * laplacian
    torch.testing.assert_close(velocity / 0.5**2, momentum)


def test_to_first_order_it_is_the_exponential_of_the_initial_velocity() -> None:
    model, spacing, momentum, errors = Momentum(6), (1.0, 1.3), smooth((20, 24)), []
    for scale in (0.1, 0.05):
        expected = exponentiate(model.tangent(scale * momentum, spacing), 8)
        found = model.maps(scale * momentum, spacing)[FORWARD]
        errors.append(float((found - expected).norm() / expected.norm()))
    assert errors[0] < 0.05 and errors[1] == pytest.approx(errors[0] / 2, rel=0.1)


def test_a_geodesic_goes_on_beyond_its_end() -> None:
    model, spacing, momentum = Momentum(6), (1.0, 1.3), 0.5 * smooth((24, 28), 4)
    start, half, twice, before = model.geodesic(momentum, spacing, [0.0, 0.5, 2.0, -1.0])
    forward, end = model.shoot(momentum, spacing)
    assert not start.any() and 0.3 < half.norm() / forward.norm() < 0.7
    further = compose(model.maps(end, spacing)[FORWARD], forward)
    inner = (..., slice(2, -2), slice(2, -2))
    assert (twice - further)[inner].norm() < 0.03 * twice[inner].norm()
    torch.testing.assert_close(before, model.maps(-momentum, spacing)[FORWARD])


def test_modes_of_momenta_are_orthogonal_in_the_metric() -> None:
    model, spacing = Momentum(6), (1.0, 2.0)
    planted = torch.cat([smooth((12, 10), 4), smooth((12, 10), 4).flip(2, 3).roll(1, 1)])
    scores = torch.tensor([[-3.0, 1.0], [0.0, -1.0], [3.0, -1.0], [1.0, 1.0], [-1.0, 0.0]]).double()
    subjects = torch.einsum("nk,k...->n...", scores, planted) + 2.0
    modes = principal_modes(lambda i: subjects[[i]], 5, 4, lambda m: model.metric(m, spacing))
    torch.testing.assert_close(modes.mean, subjects.mean(0))
    assert sum(modes.explained[:2]) == pytest.approx(1.0)
    products = modes.fields.flatten(1) @ model.metric(modes.fields, spacing).flatten(1).T
    torch.testing.assert_close(products, torch.diag(modes.variances), atol=1e-8, rtol=1e-6)
    torch.testing.assert_close(2 * model.energy(modes.fields, spacing), modes.variances, atol=1e-8, rtol=0)
