"""Every similarity, regularizer, network and decoder gives on a pretended GPU what it gives on the CPU."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from second_device import DEVICE, DeviceTensor, SecondDevice, to_device, to_host
from torch import Tensor, nn

from atlasmith.losses import REGULARIZERS, SIMILARITY
from atlasmith.networks import DECODERS, NETWORKS, Segmenters, reparameterize
from atlasmith.template.adversary import Adversary
from atlasmith.training import augmentation
from atlasmith.training.device import seeded_generator
from atlasmith.training.regression import regression
from atlasmith.transforms import PARAMETRIZATIONS

DIMENSIONS = pytest.mark.parametrize("ndim", [2, 3], ids=["2d", "3d"])
REPEATED = ("steps", "time_steps", "iterations")  # settings that are 1 here, for speed
CHANNELS = {"velocity": 0, "forward": 0, "inverse": 0, "log_variance": 0, "fixed": 1}  # 0: one for each axis


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=seeded_generator(seed, 0))


def with_gradient(function: Callable[..., Tensor], *tensors: Tensor) -> list[Tensor]:
    """The value of a function, and its gradient with respect to each tensor of floats."""
    leaves = [x.detach().requires_grad_() if x.is_floating_point() else x for x in tensors]
    value = function(*leaves)
    needed = [x for x in leaves if x.requires_grad]
    found = torch.autograd.grad(value.square().sum(), needed, allow_unused=True, materialize_grads=True)
    return [value.detach(), *found]


def assert_same(
    device: SecondDevice, function: Callable[..., Sequence[Tensor]], *args: Any, waits: int = 0
) -> None:
    """Assert that a function of tensors gives the same for those on the device, leaves it there, and hardly
    waits."""
    expected, moved = function(*args), to_device(args)
    device.clear()
    found = function(*moved)
    assert device.waits.total() <= waits, device.waits
    assert all(isinstance(x, DeviceTensor) for x in found)
    torch.testing.assert_close(to_host(list(found)), list(expected))


@pytest.mark.parametrize(("ndim", "masked"), [(2, False), (3, True)], ids=["2d", "3d masked"])
@pytest.mark.parametrize("name", SIMILARITY)
def test_similarities(name: str, ndim: int, masked: bool, second_device: SecondDevice) -> None:
    shape = (2, 1, *(13, 14, 12)[:ndim])
    mask = torch.ones(shape, dtype=torch.uint8)
    mask[:, :, :2] = 0
    function = functools.partial(with_gradient, SIMILARITY[name])
    assert_same(second_device, function, random(*shape), random(*shape, seed=1), *([mask] if masked else []))


@DIMENSIONS
@pytest.mark.parametrize("name", REGULARIZERS)
def test_regularizers(name: str, ndim: int, second_device: SecondDevice) -> None:
    shape, spacing = (7, 8, 6)[:ndim], (1.0, 1.5, 2.0)[:ndim]
    function = REGULARIZERS[name]
    fields = [key for key in inspect.signature(function.function).parameters if key in CHANNELS]
    given: dict[str, Any] = {"pair_dependence": 0.1} if "pair_dependence" in function.needs else {}
    values = [0.5 * random(2, CHANNELS[key] or ndim, *shape, seed=i) for i, key in enumerate(fields)]

    def value(*tensors: Tensor) -> Tensor:
        return function(**dict(zip(fields, tensors, strict=True)), **given, spacing=spacing)

    assert_same(second_device, functools.partial(with_gradient, value), *values)


def assert_same_module(
    device: SecondDevice, module: nn.Module, function: Callable[..., Tensor], *args: Any
) -> None:
    """Assert the same of a function of a module and tensors, and of its gradient for the parameters."""

    def value_and_gradients(*tensors: Tensor) -> list[Tensor]:
        result = function(*tensors)
        found = torch.autograd.grad(result.square().mean(), list(module.parameters()), allow_unused=True)
        return [result.detach(), *(x for x in found if x is not None)]

    expected = value_and_gradients(*args)
    module.to(DEVICE)
    moved = to_device(args)
    device.clear()
    found = value_and_gradients(*moved)
    assert not device.waits, device.waits
    assert all(isinstance(x, DeviceTensor) for x in (*found, *module.state_dict().values()))
    torch.testing.assert_close(to_host(found), expected)


@DIMENSIONS
@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name: str, ndim: int, second_device: SecondDevice) -> None:
    torch.manual_seed(0)
    shape, entry = (9, 8, 10)[:ndim], NETWORKS[name]
    network = entry(ndim, 1, ndim, [4, 8], **{key: 1 for key in REPEATED if key in entry.settings})
    for parameter in network.parameters():  # the last layers start near zero
        parameter.data += 0.01
    assert_same_module(second_device, network, network, random(2, 1, *shape), random(2, 1, *shape, seed=1))


def test_folded_kernels(second_device: SecondDevice) -> None:
    network = NETWORKS["lkunet"](2, 1, 2, [4, 8]).to(DEVICE)
    reparameterize(network)
    assert network(*to_device((random(1, 1, 9, 8), random(1, 1, 9, 8)))).device == DEVICE


@pytest.mark.parametrize("name", PARAMETRIZATIONS)
def test_parametrizations(name: str, second_device: SecondDevice) -> None:
    shape, spacing = (7, 8, 6), (1.0, 1.5, 2.0)
    entry = PARAMETRIZATIONS[name]
    model = entry(2, **{key: 1 for key in REPEATED if key in entry.settings})

    def results(image: Tensor, coefficients: Tensor) -> Sequence[Tensor]:
        start = (model.initial(image, shape) + coefficients).requires_grad_()
        maps = [*model.maps(start, spacing, save_memory=True).values()]
        fields = model.regularized(start, spacing), model.compose(start, 0.1 * start, spacing)
        gradient, *_ = torch.autograd.grad(sum(x.square().mean() for x in (*maps, *fields)), start)
        resized = model.resize(start.detach(), [n + 2 for n in shape], spacing)
        lifted = model.lift(maps[0].detach(), spacing)
        return [gradient, resized, lifted, *(x.detach() for x in (*maps, *fields))]

    assert_same(
        second_device,
        results,
        random(2, 1, *[2 * n for n in shape]),
        0.5 * random(2, model.channels(3), *shape, seed=1),
    )


@pytest.mark.parametrize("name", DECODERS)
def test_decoders(name: str, second_device: SecondDevice) -> None:
    torch.manual_seed(0)
    decoder = DECODERS[name](2, (9, 10, 11), 1)
    assert_same_module(second_device, decoder, decoder, torch.tensor([[0.5, -1.0], [0.1, 0.2]]))


@pytest.mark.parametrize("name", DECODERS)
def test_decoders_differ_little_in_half_precision(name: str, second_device: SecondDevice) -> None:
    code = torch.tensor([[1.5], [-0.7]], device=DEVICE)
    torch.manual_seed(0)
    decoder = DECODERS[name](1, (24, 24, 24), 1)
    nn.init.normal_(decoder.head.get_parameter("weight"), std=0.1)
    decoder.to(DEVICE)
    expected = decoder(code).detach().cpu()
    with torch.autocast("cuda", dtype=torch.bfloat16):
        found = decoder(code).detach().float().cpu()
    assert (found - expected).std() < 0.1 * expected.std()


def test_segmenters(second_device: SecondDevice) -> None:
    segmenters = Segmenters(3, 2, [4, 8], [["a"], ["b"]])
    images = random(2, 1, 12, 13, 14)
    assert_same_module(second_device, segmenters, lambda x: segmenters(x, ["a", "c"]), images)


def test_adversary(second_device: SecondDevice) -> None:
    torch.manual_seed(0)
    adversary = Adversary(3, 2, [4, 8]).eval()  # in training, each call moves the spectral norm's vectors

    def loss(moved: Tensor, real: Tensor, code: Tensor) -> Tensor:
        terms = adversary.terms(moved, real, code, 0.1, 1e-3, seeded_generator(0, 1))
        return torch.stack(list(terms.values())).sum()

    images = random(2, 1, 16, 16, 16), random(2, 1, 16, 16, 16, seed=1)
    assert_same_module(second_device, adversary, loss, *images, torch.ones(2, 2))


def test_regression(second_device: SecondDevice) -> None:
    def fit(maps: Tensor, codes: Tensor) -> Sequence[Tensor]:
        return regression(((x, torch.ones_like(x[:, :1])) for x in maps), codes)

    assert_same(second_device, fit, random(5, 1, 2, 6, 7), random(5, 3, seed=1), waits=5 + 3)


@DIMENSIONS
def test_augmentation(ndim: int, second_device: SecondDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augmentation, "NOISE_SD", 0.0)  # which a GPU draws for itself
    shape = (2, 1, *(13, 14, 12)[:ndim])
    assert_same(
        second_device,
        lambda x: augmentation.augment(x, torch.ones_like(x), seeded_generator(0, 2)),
        random(*shape),
    )


@pytest.mark.parametrize("name", SIMILARITY)
def test_launches_hardly_grow_with_the_image(name: str, second_device: SecondDevice) -> None:
    """Chunks that fit a CPU's cache would keep a GPU waiting for launches."""
    launched = []
    for size in (20, 40):
        images = to_device((random(1, 1, size, size, size), random(1, 1, size, size, size, seed=1)))
        second_device.clear()
        with_gradient(SIMILARITY[name], *images)
        launched.append(second_device.kernels.total())
        assert not second_device.waits, second_device.waits
    assert launched[1] < 1.5 * launched[0]
