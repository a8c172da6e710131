"""Networks that are trained level by level, or that are several networks: phases, terms, composition."""

import pytest
import torch
from torch import Tensor, nn

from atlasmith.core.fields import compose, exponentiate
from atlasmith.networks import NETWORKS
from atlasmith.networks.registration.base import VELOCITY_SCALE, RegistrationNetwork
from atlasmith.networks.registration.cascades import AffineStage
from atlasmith.networks.registration.pyramid import level_phase
from atlasmith.networks.registration.sdhnet import ConvGRU


def moving_network(name: str, ndim: int = 2, **settings: float) -> RegistrationNetwork:
    """A network of random weights in its last layers too, so that it moves something."""
    torch.manual_seed(0)
    net = NETWORKS[name](ndim, 1, ndim, [4, 8, 8], **settings)
    for layer in net.modules():
        if type(layer).__name__.startswith("_Head"):
            nn.init.normal_(layer.weight, std=0.05)
    assert isinstance(net, RegistrationNetwork)
    return net


def images(*shape: int) -> tuple[Tensor, Tensor]:
    fixed, moving = torch.rand(2, 2, 1, *shape, generator=torch.Generator().manual_seed(1))
    return fixed, moving


def trained(net: nn.Module, output: Tensor) -> set[str]:
    """The parts of a network that have a gradient."""
    net.zero_grad(set_to_none=True)
    output.square().sum().backward()
    return {".".join(name.split(".")[:2]) for name, p in net.named_parameters() if p.grad is not None}


def test_the_levels_of_lapirn_are_trained_one_after_the_other() -> None:
    net, pair = moving_network("lapirn", frozen_share=0.1), images(24, 20)
    expected = {0.0: {0}, 0.24: {0}, 0.25: {1}, 0.28: {0, 1}, 0.5: {2}, 0.54: {2}, 0.56: {0, 1, 2}}
    for progress, levels in expected.items():
        net.schedule(progress)
        assert trained(net, net(*pair)) == {f"levels.{level}" for level in levels}, progress
    assert level_phase(1.0, 3) < 3


@pytest.mark.parametrize("name", ["lapirn", "progressive"])
def test_a_new_level_starts_from_the_output_of_the_coarser_ones(name: str) -> None:
    net, pair = moving_network(name), images(24, 20)
    for layer in net.modules():
        if name == "lapirn" and type(layer).__name__.startswith("_Head"):
            nn.init.normal_(layer.weight, std=1e-6)  # a new level's
    nn.init.normal_(
        net.get_parameter("levels.0.head.weight" if name == "lapirn" else "heads.2.weight"), std=0.05
    )
    found = []
    for progress in (0.249, 0.250001):
        net.schedule(progress)
        found.append(net(*pair))
    coarse, grown = (x.detach() for x in found)
    assert coarse.abs().max() > 0.01
    torch.testing.assert_close(grown, coarse, atol=2e-3 * float(coarse.abs().max()), rtol=0)


def test_progressive_training_fades_levels_in() -> None:
    net = moving_network("progressive", fade=0.5)
    expected = {0.0: [0, 0, 1], 0.25: [0, 0, 1], 0.3125: [0, 0.5, 1], 0.5: [0, 1, 1], 0.625: [0.5, 1, 1]}
    for progress, weights in expected.items():
        net.schedule(progress)
        assert net.weights == pytest.approx(weights), progress


def test_lapirn_bounds_what_a_level_adds() -> None:
    net = moving_network("lapirn", flow_range=0.4)
    for layer in net.modules():
        if type(layer).__name__.startswith("_Head"):
            nn.init.normal_(layer.weight, std=1e4)
    net.schedule(0.0)
    found = VELOCITY_SCALE * net(*images(48, 32)).abs().amax((0, 2, 3))
    for value, half in zip(found.tolist(), (24, 16), strict=True):
        assert 0.9 < value / (0.4 * (half - 1) / 2) <= 1 + 1e-5


def test_corrections_are_further_levels_of_the_same_size() -> None:
    once, twice = (moving_network("pyramid", corrections=count) for count in (0, 1))
    assert len(twice.levels) == 2 * len(once.levels)
    for layer in twice.levels[1::2]:
        for parameter in layer.head.parameters():
            nn.init.zeros_(parameter)
    for one, two in zip(once.levels, twice.levels[::2], strict=True):
        two.load_state_dict(one.state_dict())
    pair = images(24, 20)
    torch.testing.assert_close(twice(*pair), once(*pair))


@pytest.mark.parametrize("shape", [(24, 20), (12, 16, 14)])
def test_cascades_compose_the_deformations_of_their_stages(shape: tuple[int, ...]) -> None:
    net = moving_network("cascades", len(shape), count=2).eval()
    with torch.no_grad():
        for stage in net.stages:  # a shift: its compositions are exact
            stage.head.weight.zero_()
            stage.head.bias.copy_(0.1 * torch.arange(1.0, 1 + len(shape)))
        output = net(*images(*shape))
    expected = torch.stack([torch.full_like(output[0, 0], 0.2 * k) for k in range(1, 1 + len(shape))])
    torch.testing.assert_close(output, expected.expand_as(output))


def test_the_image_is_warped_from_the_original() -> None:
    """A stage sees the image warped once by the composition, and not the warped one warped again."""
    net, seen = moving_network("cascades", count=3).eval(), []
    for stage in net.stages:
        stage.register_forward_hook(lambda module, args, output: seen.append((args[0][:, 1:], output)))
    fixed, moving = images(24, 20)
    net(fixed, moving)
    shift = torch.stack([output for _, output in seen])
    assert all(x.shape == moving.shape for x, _ in seen)
    twice = net.warp_by_output(net.warp_by_output(moving, shift[0], (12, 10)), shift[1], (12, 10))
    assert not torch.allclose(seen[2][0], twice)


@pytest.mark.parametrize("ndim", [2, 3])
def test_an_affine_stage_gives_an_affine_map(ndim: int) -> None:
    torch.manual_seed(0)
    stage = AffineStage(ndim, 2, 2 * ndim, [4, 8])
    nn.init.normal_(stage.parameters_of.weight, std=3)
    shape = (24, 20, 22)[:ndim]
    output = stage(torch.cat(images(*shape), dim=1)).detach()
    assert output[:, :ndim].abs().max() > 0.1
    assert output[:, ndim:].abs().max() == 0
    for axis in range(2, 2 + ndim):
        assert output.diff(dim=axis).diff(dim=axis).abs().max() < 1e-5


def test_the_invertibility_term_is_zero_where_the_maps_are_inverse() -> None:
    net = moving_network("cascades", count=1, invertibility=1.0)
    fixed, moving = images(24, 20)
    velocity = VELOCITY_SCALE * net(fixed, moving)
    reverse = VELOCITY_SCALE * net._cascade(moving, fixed)
    there, back = (exponentiate(v, 5) for v in (velocity, reverse))
    expected = sum(compose(a, b).square().sum(1).mean() for a, b in ((there, back), (back, there)))
    torch.testing.assert_close(net.terms["invertibility"], expected)
    nn.init.zeros_(net.stages[0].head.weight)
    with torch.no_grad():
        net.stages[0].head.bias.zero_()
    net(fixed, moving)
    assert net.terms["invertibility"] == 0
    net.eval()(fixed, moving)
    assert not net.terms


def test_cycle_and_identity_terms_are_zero_at_the_identity() -> None:
    net, pair = moving_network("cyclemorph"), images(24, 20)
    net(*pair)
    assert set(net.terms) == {"cycle", "identity"}
    assert all(term > 1e-3 for term in net.terms.values())
    for layer in net.modules():
        if type(layer).__name__.startswith("_Head"):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
    net(*pair)
    assert all(term < 1e-6 for term in net.terms.values())
    assert not (net.eval()(*pair), net.terms)[1]


def test_a_gated_unit_keeps_or_replaces_its_state() -> None:
    unit, x, hidden = ConvGRU(2, 3, 4), torch.rand(1, 3, 5, 5), torch.rand(1, 4, 5, 5)
    for bias, expected in ((-50.0, hidden), (50.0, None)):
        with torch.no_grad():
            unit.gates.weight.zero_()
            unit.gates.bias[:4].fill_(bias)
            unit.gates.bias[4:].fill_(-50.0)
        fresh = unit.candidate(torch.cat([x, torch.zeros_like(hidden)], dim=1)).tanh()
        torch.testing.assert_close(unit(x, hidden), fresh if expected is None else expected)


def test_self_distillation_teaches_the_earlier_outputs_alone() -> None:
    net, pair = moving_network("sdhnet", iterations=2, distillation=1.0), images(24, 20)
    net(*pair)
    assert net.terms["distillation"] > 0
    one = moving_network("sdhnet", iterations=1, distillation=1.0)
    first, last = one.eval()(*pair), net.eval()(*pair)
    assert not torch.allclose(first, last)
    assert not net.terms
