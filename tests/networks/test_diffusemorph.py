"""A diffusion network that conditions another one's deformation."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from atlasmith.core.fields import exponentiate, resize_displacement
from atlasmith.core.sampling import coordinates, warp
from atlasmith.networks import NETWORKS
from atlasmith.networks.registration.base import VELOCITY_SCALE

GUIDANCE = pytest.mark.parametrize(
    "settings",
    [{}, {"feature_guidance": True, "score_weight": 1.0}],
    ids=["diffusemorph", "fsdiffreg"],
)


def disks(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Pairs of images (count, 1, 32, 32) of soft disks of other centers and radii."""
    draw = torch.rand(2 * count, 3, 1, 1, generator=torch.Generator().manual_seed(seed))
    distance = (coordinates([32, 32], draw) - 13 - 6 * draw[:, :2]).norm(dim=1, keepdim=True)
    fixed, moving = torch.sigmoid(2 * (6 + 4 * draw[:, 2:] - distance)).chunk(2)
    return fixed, moving


def moved(image: Tensor, output: Tensor) -> Tensor:
    displacement = exponentiate(VELOCITY_SCALE * output, 6)
    return warp(image, resize_displacement(displacement, image.shape[2:]))


def trained(settings: dict[str, Any], steps: int) -> tuple[Any, list[float]]:
    """A trained network, and its diffusion term at each step."""
    torch.manual_seed(0)
    network = NETWORKS["diffusemorph"](2, 1, 2, [8, 16], **settings)
    optimizer = torch.optim.Adam(network.parameters(), lr=4e-3)
    diffusion = []
    for step in range(steps):
        fixed, moving = disks(8, step + 1)
        loss = (moved(moving, network(fixed, moving)) - fixed).square().mean()
        loss = loss + torch.stack(list(network.terms.values())).sum()
        diffusion.append(network.terms["diffusion"].item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval(), diffusion


@GUIDANCE
def test_scaling_the_latent_image_gives_a_path_from_the_identity(settings: dict[str, Any]) -> None:
    network, diffusion = trained(settings, steps=40)
    assert sum(diffusion[-5:]) < 0.7 * sum(diffusion[:5])
    fixed, moving = disks(16, 0)
    with torch.inference_mode():
        path = network.path(fixed, moving, [0.0, 0.25, 0.5, 0.75, 1.0])
        torch.testing.assert_close(network(fixed, moving), path[-1])
    assert (path[0] == 0).all()
    errors = [(moved(moving, output) - fixed).square().mean() for output in path]
    lengths = [output.square().mean() for output in path]
    assert all(after < before for before, after in itertools.pairwise(errors))
    assert all(after > before for before, after in itertools.pairwise(lengths))
    assert errors[-1] < 0.3 * errors[0]


@GUIDANCE
def test_terms_exist_in_training_alone(settings: dict[str, Any]) -> None:
    torch.manual_seed(0)
    network = NETWORKS["diffusemorph"](2, 2, 4, [4, 8], **settings)
    images = torch.rand(2, 3, 2, 17, 12)
    network(*images)
    assert set(network.terms) == {"diffusion"} | ({"score"} if settings else set())
    first = network.terms["diffusion"]
    network(*images)
    assert first != network.terms["diffusion"]  # other noise
    torch.stack(list(network.terms.values())).sum().backward()
    state = torch.get_rng_state()
    network.eval()(*images)
    assert network.terms == {}
    assert (torch.get_rng_state() == state).all()
