"""Registration networks: any size, reproducible, and able to learn."""

import inspect
from pathlib import Path

import pytest
import torch

from atlasmith.core.fields import compose, exponentiate, resize_displacement
from atlasmith.core.sampling import warp
from atlasmith.losses import REGULARIZERS
from atlasmith.networks import DECODERS, NETWORKS, UNet, reparameterize
from atlasmith.networks.registration.base import VELOCITY_SCALE

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("shape", [(17, 9), (13, 16, 11)])
@pytest.mark.parametrize("stride", [1, 2])
def test_unet_takes_any_size_and_starts_near_zero(shape: tuple[int, ...], stride: int) -> None:
    net = UNet(len(shape), 2, 3, [4, 8, 8], first_stride=stride)
    output = net(torch.rand(2, 2, *shape))
    assert output.shape == (2, 3, *[-(-n // stride) for n in shape])
    assert output.abs().max() < 1e-3


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("shape", "inputs"), [((17, 9), 1), ((8, 40), 3), ((13, 16, 11), 2)])
def test_registration_networks_take_any_size_and_start_near_zero(
    name: str, shape: tuple[int, ...], inputs: int
) -> None:
    nets = []
    for _ in range(2):
        torch.manual_seed(0)
        nets.append(NETWORKS[name](len(shape), inputs, 2 * len(shape)))
    fixed, moving = torch.rand(2, 2, inputs, *shape)
    output, again = (net(fixed, moving) for net in nets)
    assert output.shape == (2, 2 * len(shape), *[-(-n // 2) for n in shape])
    assert output.abs().max() < 1e-3
    torch.testing.assert_close(again, output, rtol=0, atol=0)
    output.sum().backward()
    assert all(parameter.grad is not None for parameter in nets[0].parameters())
    one = nets[0](fixed[:1], moving[:1])
    torch.testing.assert_close(one, output[:1], rtol=1e-3, atol=1e-9)


def test_voxelmorph_has_the_published_size() -> None:
    sizes = [sum(p.numel() for p in NETWORKS["unet"](ndim, 1, ndim).parameters()) for ndim in (2, 3)]
    assert sizes == [109_170, 327_331]


@pytest.mark.parametrize("shape", [(18, 14), (10, 12, 14)])
def test_folded_kernels_compute_the_same(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    net = NETWORKS["lkunet"](len(shape), 1, len(shape)).double()
    torch.nn.init.normal_(net.body.head.weight)
    images = torch.rand(2, 1, 1, *shape).double()
    before, size = net(*images), len(list(net.parameters()))
    reparameterize(net)
    assert len(list(net.parameters())) < size
    torch.testing.assert_close(net(*images), before, rtol=1e-6, atol=1e-6)


def rings(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and masks (count, 1, 48, 48) of soft ellipses of random positions and sizes."""
    draw = torch.rand(count, 4, 1, 1, 1, generator=torch.Generator().manual_seed(seed))
    center, radius = 20 + 8 * draw[:, :2], 8 + 6 * draw[:, 2:]
    x = torch.arange(48.0)
    away = ((x.view(1, 1, -1, 1) - center[:, 0]) / radius[:, 0]) ** 2
    distance = (away + ((x.view(1, 1, 1, -1) - center[:, 1]) / radius[:, 1]) ** 2).sqrt()
    return torch.sigmoid(8 * (1 - distance)), (distance < 1).float()


def dice(a: torch.Tensor, b: torch.Tensor) -> float:
    b = (b > 0.5).float()
    return (2 * (a * b).sum((1, 2, 3)) / (a.sum((1, 2, 3)) + b.sum((1, 2, 3)))).mean().item()


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_learn_to_register_rings(name: str) -> None:
    torch.manual_seed(0)
    net = NETWORKS[name](2, 1, 2)
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)

    def velocity(fixed: torch.Tensor, moving: torch.Tensor) -> torch.Tensor:
        return VELOCITY_SCALE * net(fixed, moving)

    def moved(image: torch.Tensor, velocity: torch.Tensor) -> torch.Tensor:
        return warp(image, resize_displacement(exponentiate(velocity, 6), image.shape[2:]))

    for step in range(50):
        images, _ = rings(16, step + 1)
        fixed, moving = images.chunk(2)
        v = velocity(fixed, moving)
        loss = (moved(moving, v) - fixed).square().mean() + 0.01 * REGULARIZERS["diffusion"](v, (1.0, 1.0))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    net.eval()
    with torch.inference_mode():
        (fixed, moving), (truth, mask) = (x.chunk(2) for x in rings(32, 0))
        v = velocity(fixed, moving)
        before = dice(truth, mask)
        after = dice(truth, moved(mask, v))
        both = exponentiate(torch.cat([v, -v]), 6)
    assert after > 0.85 > before
    forward, inverse = both.chunk(2)
    assert compose(inverse, forward).norm(dim=1).mean() < 0.1  # half-resolution voxels


def test_the_docs_list_every_network_and_decoder() -> None:
    page = (DOCS / "networks.md").read_text().splitlines()
    for name, entry in (NETWORKS | DECODERS).items():
        row = next((line for line in page if line.startswith(f"| `{name}` |")), None)
        assert row and entry.text, name
        if name in NETWORKS:
            widths = inspect.signature(entry.function).parameters["channels"].default
            size = sum(parameter.numel() for parameter in entry(3, 1, 3).parameters())
            assert f"| {', '.join(map(str, widths))} | {size:,} |" in row, name


@pytest.mark.parametrize("name", NETWORKS)
def test_autocast_does_not_round_the_velocity(name: str) -> None:
    """In half precision it would be a staircase, whose Jacobian determinant is noise."""
    torch.manual_seed(0)
    net = NETWORKS[name](3, 1, 3)
    for layer in net.modules():
        if type(layer).__name__.startswith("_Head"):
            torch.nn.init.normal_(layer.weight, std=0.05)
    images = torch.rand(2, 1, 1, 16, 18, 20)
    with torch.no_grad():
        expected = net(*images)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = net(*images)
    assert found.dtype == torch.float32
    assert (found != found.bfloat16()).float().mean() > 0.9
    assert (found - expected).std() < 0.05 * expected.std()
