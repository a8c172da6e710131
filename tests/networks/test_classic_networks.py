"""What sets each paper's network apart: closed forms, receptive fields, the span of its output."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from second_device import DEVICE, SecondDevice, to_device, to_host
from torch.distributions import Normal, kl_divergence

from atlasmith.core.bsplines import basis_matrix, spread, uniform_knots
from atlasmith.core.sampling import half_shape, warp
from atlasmith.networks import NETWORKS
from atlasmith.networks.blocks import plain_block
from atlasmith.networks.registration.base import VELOCITY_SCALE
from atlasmith.networks.registration.deepflash import _inverse, _transform, _waves
from atlasmith.networks.registration.deformable import DeformableConvolution

SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("dualstream", {"reach": 2, "shared": False}),
    ("flownet", {"reach": 1, "stride": 2}),
    ("dirnet", {"spacing": 2.5}),
    ("quicksilver", {"correction": True, "dropout": 0.1}),
    ("deepflash", {"modes": 3}),
    ("cvae", {"latent": 4}),
]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def with_random_heads(name: str, ndim: int, outputs: int, *channels: int, **settings: Any) -> torch.nn.Module:
    """A network in evaluation mode whose last convolutions are not near zero."""
    network = NETWORKS[name](ndim, 1, outputs, channels or (4, 8), **settings).eval()
    for layer in network.modules():
        if type(layer).__name__.startswith("_Head"):
            torch.nn.init.normal_(layer.get_parameter("weight"), std=0.1)
    return network


@pytest.mark.parametrize(("name", "settings"), SETTINGS, ids=[name for name, _ in SETTINGS])
@pytest.mark.parametrize(("shape", "channels"), [((17, 9), [4, 8]), ((3, 12, 5), [4, 4, 4])], ids=str)
def test_settings_work_for_any_size(
    name: str, settings: dict[str, Any], shape: tuple[int, ...], channels: list[int]
) -> None:
    network = NETWORKS[name](len(shape), 2, 2 * len(shape), channels, **settings)
    output = network(*torch.rand(2, 2, 2, *shape))
    assert output.shape == (2, 2 * len(shape), *half_shape(shape))
    assert output.abs().max() < 1e-3
    output.sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_features_keep_their_scale_without_norms() -> None:
    layers = torch.nn.Sequential(*(plain_block(2, 16, 16) for _ in range(8)))
    assert 0.3 < layers(torch.randn(1, 16, 32, 32)).square().mean().sqrt() < 3


def test_unshared_encoders_of_equal_weights_are_a_shared_one() -> None:
    one = with_random_heads("dualstream", 2, 2)
    two = with_random_heads("dualstream", 2, 2, shared=False)
    state = one.state_dict()
    encoder = {f"moving_{name}": value for name, value in state.items() if name.startswith("encoder.")}
    two.load_state_dict(state | encoder)
    images = torch.rand(2, 1, 1, 16, 16)
    torch.testing.assert_close(two(*images), one(*images))
    torch.nn.init.normal_(two.get_parameter("moving_encoder.0.0.weight"))
    assert not torch.allclose(two(*images), one(*images), rtol=0.01)


def test_flownet_has_the_published_size() -> None:
    """But the four transposed convolutions that upsample its flow."""
    network = NETWORKS["flownet"](2, 3, 2, (64, 128, 256, 512, 512, 1024), reach=10, stride=2)
    assert sum(p.numel() for p in network.parameters()) == 39_175_298 - 4 * (2 * 2 * 4**2 + 2)


@pytest.mark.parametrize("shape", [(21, 14), (12, 9, 10)], ids=str)
def test_dirnet_gives_b_splines(shape: tuple[int, ...]) -> None:
    spacing, half = 3.0, half_shape(shape)
    output = with_random_heads("dirnet", len(shape), len(shape), spacing=spacing)(
        *torch.rand(2, 1, 1, *shape)
    )
    matrices = [basis_matrix(n, spacing, output.double()) for n in half]
    projections = [matrix @ torch.linalg.pinv(matrix) for matrix in matrices]
    assert output.std() > 0.01
    torch.testing.assert_close(spread(output.double(), projections).float(), output, atol=1e-4, rtol=0)


def test_dirnet_reads_its_features_at_the_control_points() -> None:
    network, (n, half) = NETWORKS["dirnet"](2, 1, 2, [4, 8, 8], spacing=4.0), (48, 24)
    centers = 8 * torch.arange(6.0) + 3.5  # of cells of 8 voxels
    features = centers.view(1, 1, -1, 1).expand(1, 1, 6, 6)
    found = network._at_control_points(features, (n, n))[0, 0, :, 0]
    knots = uniform_knots(half, 4.0, centers).float() * (n - 1) / (half - 1)
    torch.testing.assert_close(found[1:-1], knots.clamp(centers[0], centers[-1]))


@pytest.mark.parametrize(("stream", "size"), [("fine", 29), ("coarse", 54)])
def test_regnet_sees_the_patches_of_the_paper(stream: str, size: int) -> None:
    network = with_random_heads("regnet", 2, 2)
    other = {"fine": network.coarse, "coarse": network.fine}[stream]
    for parameter in other.parameters():
        torch.nn.init.zeros_(parameter)
    image = torch.rand(1, 1, 80, 80, requires_grad=True)
    network(image, image)[0, 0, 20, 20].backward()
    assert image.grad is not None
    for axis in (0, 1):
        assert (image.grad[0, 0].abs().sum(axis) > 0).sum() == size


def test_each_decoder_of_quicksilver_gives_one_component() -> None:
    network, images = with_random_heads("quicksilver", 2, 4), torch.rand(2, 1, 1, 16, 16)
    before = network(*images)
    network.prediction.decoders[1][-1].weight.data.zero_()
    changed = (network(*images) - before).abs().amax((0, 2, 3)) > 1e-3
    assert changed.tolist() == [False, True, False, True]


def test_the_correction_of_quicksilver_sees_the_warped_image() -> None:
    network, seen = NETWORKS["quicksilver"](2, 1, 2, [4, 8], correction=True), []
    for decoder, shift in zip(network.prediction.decoders, (1.0, 0.0), strict=True):
        torch.nn.init.constant_(decoder[-1].bias, shift / VELOCITY_SCALE)
    network.correction.register_forward_pre_hook(lambda _, images: seen.extend(images))
    fixed, moving = torch.rand(2, 1, 1, 17, 17)
    output = network(fixed, moving)
    shift = torch.stack([torch.full((17, 17), 2.0), torch.zeros(17, 17)])[None]
    torch.testing.assert_close(seen, [fixed, warp(moving, shift)], atol=1e-3, rtol=0)
    torch.testing.assert_close(output[0, :, 4, 4], torch.tensor([0.25, 0.0]), atol=1e-3, rtol=0)


def test_dropout_is_random_in_training_alone() -> None:
    network, images = with_random_heads("quicksilver", 2, 2, dropout=0.5), torch.rand(2, 1, 1, 16, 16)
    torch.testing.assert_close(network(*images), network(*images), rtol=0, atol=0)
    network.train()
    assert not torch.equal(network(*images), network(*images))


@pytest.mark.parametrize("shape", [(9, 7), (5, 6, 7)], ids=str)
def test_low_frequencies_are_those_of_the_discrete_fourier_transform(shape: tuple[int, ...]) -> None:
    image, modes = torch.randn(2, 3, *shape), [2] * len(shape)
    real, imaginary = _transform(image, _waves(shape, shape, modes, image))
    axes = tuple(range(2, image.ndim))
    spectrum = torch.fft.fftshift(torch.fft.fftn(image, dim=axes, norm="forward"), axes)
    for axis, n in zip(axes, shape, strict=True):
        spectrum = spectrum.narrow(axis, n // 2 - 2, 5)
    torch.testing.assert_close(torch.complex(real, imaginary), spectrum, atol=1e-5, rtol=0)
    band = _inverse(real, imaginary, _waves(shape, shape, modes, image))
    again = _transform(band, _waves(shape, shape, modes, image))
    torch.testing.assert_close(again, (real, imaginary), atol=1e-5, rtol=0)


def test_deepflash_gives_low_frequencies_alone() -> None:
    output = with_random_heads("deepflash", 2, 2, modes=2)(*torch.rand(2, 1, 1, 24, 18)).double()
    assert output.std() > 0.01
    for axis, (n, half) in enumerate(zip((24, 18), (12, 9), strict=True), start=2):
        angles = np.outer(np.arange(half) * (n - 1) / (half - 1), np.arange(3)) * 2 * math.pi / n
        waves = torch.from_numpy(np.concatenate([np.cos(angles), np.sin(angles[:, 1:])], axis=1))
        projection = waves @ torch.linalg.pinv(waves)
        found = (output.movedim(axis, -1) @ projection.T).movedim(-1, axis)
        torch.testing.assert_close(found, output, atol=1e-5, rtol=0)


@pytest.mark.parametrize("n", [9, 16])
def test_coordinates_are_relative_to_the_center_in_units_of_any_size(n: int) -> None:
    network, seen = NETWORKS["coordconv"](2, 1, 2, [4, 8]), []
    network.body.register_forward_pre_hook(lambda _, inputs: seen.extend(inputs))
    images = torch.rand(2, 3, 1, n, n)
    network(*images)
    expected = (torch.arange(n) - (n - 1) / 2) / 64
    torch.testing.assert_close(seen[0][:, :2], torch.cat(list(images), dim=1))
    torch.testing.assert_close(seen[0][2, 2, :, 3], expected)
    torch.testing.assert_close(seen[0][2, 3, 3], expected)


@pytest.mark.parametrize("shape", [(7, 5), (4, 5, 3)], ids=str)
def test_a_deformable_convolution_without_offsets_is_a_convolution(shape: tuple[int, ...]) -> None:
    layer, x = DeformableConvolution(len(shape), 3, 4), torch.randn(2, 3, *shape)
    torch.testing.assert_close(layer(x), layer.convolution(x), atol=1e-5, rtol=1e-5)
    layer.offsets.bias.data.view(len(shape), -1)[1] = 1.0  # each voxel of the kernel, along the second axis
    shifted = torch.nn.functional.pad(x, [0, 0] * (len(shape) - 2) + [-1, 1])
    found, expected = (y.narrow(3, 1, shape[1] - 2) for y in (layer(x), layer.convolution(shifted)))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_the_divergence_of_a_code_is_the_closed_form() -> None:
    network, images = NETWORKS["cvae"](2, 1, 2, [4, 8], latent=3, kl_weight=0.5), torch.rand(2, 2, 1, 16, 16)
    torch.nn.init.normal_(network.posterior.weight)
    network(*images)
    mean, log_variance = network.encode(*images)
    expected = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0)).sum(1).mean()
    torch.testing.assert_close(network.terms["kl"], 0.5 * expected)
    network.eval()(*images)
    assert not network.terms


def test_codes_are_sampled_in_the_training_schedule_alone() -> None:
    network, images = with_random_heads("cvae", 2, 2, latent=3), torch.rand(2, 2, 1, 16, 16)
    mean = network.encode(*images)[0]
    expected = network.decode(mean, images[1])
    torch.testing.assert_close(network(*images), expected)
    torch.testing.assert_close(network.train()(*images), expected)
    network.schedule(0.25)
    torch.manual_seed(0)
    sampled, other = network(*images), network(*images)
    assert not torch.allclose(other, sampled, rtol=0.01)
    assert not torch.allclose(sampled, expected, rtol=0.01)
    torch.manual_seed(0)
    torch.testing.assert_close(network(*images), sampled, rtol=0, atol=0)
    torch.testing.assert_close(network.eval()(*images), expected)


def test_codes_are_sampled_on_a_gpu_without_waits(second_device: SecondDevice) -> None:
    network, images = with_random_heads("cvae", 2, 2).train(), torch.rand(2, 2, 1, 16, 16)
    network.schedule(0.25)
    torch.manual_seed(0)
    expected = network(*images)
    network, images = network.to(DEVICE), to_device(images)
    second_device.clear()
    torch.manual_seed(0)
    found = network(*images)
    assert not second_device.waits, second_device.waits
    torch.testing.assert_close(to_host(found), expected)
