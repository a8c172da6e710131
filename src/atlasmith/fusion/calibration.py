"""Calibration: from a network's logits to probabilities that hold on those it didn't learn from.

A new one is a module from logits (M,) and what the network saw there (M, C) to logits, and a line in
`CALIBRATIONS`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH = 8


class Platt(nn.Module):
    """scale z + offset (Platt 1999)."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.offset = nn.Parameter(torch.zeros(()))

    def forward(self, z: Tensor, seen: Tensor) -> Tensor:
        return self.scale * z + self.offset


class Temperature(nn.Module):
    """z / T (Guo et al. 2017, arXiv:1706.04599), T above 0: what is likelier than not stays so."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.coldness = nn.Parameter(torch.zeros(()))  # -log T

    def forward(self, z: Tensor, seen: Tensor) -> Tensor:
        return z * self.coldness.exp()


class LocalTemperature(nn.Module):
    """z / T, where T depends on the logit and on what the network saw (Ding et al. 2021,
    arXiv:2008.05105)."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.hear = nn.Linear(inputs + 1, WIDTH)
        self.tell = nn.Linear(WIDTH, 1)
        nn.init.zeros_(self.tell.weight)
        nn.init.zeros_(self.tell.bias)

    def forward(self, z: Tensor, seen: Tensor) -> Tensor:
        known = torch.cat([seen, z[..., None]], dim=-1)
        return z * self.tell(F.leaky_relu(self.hear(known), 0.1))[..., 0].exp()


CALIBRATIONS: dict[str, Callable[[int], nn.Module]] = {
    "platt": Platt,
    "temperature": Temperature,
    "local_temperature": LocalTemperature,
}


def calibrate(calibration: nn.Module, z: Tensor, seen: Tensor, right: Tensor) -> None:
    """Fit to which logits z (M,), seen (M, C), are right (M,), 0 or 1: the likeliest probabilities, with
    Platt's targets, which stay off 0 and 1, so that a perfect split has an answer too."""
    z, seen = z.double(), seen.double()
    count = right.double().sum()
    high, low = (count + 1) / (count + 2), 1 / (len(right) - count + 2)
    target = torch.where(right > 0.5, high, low)
    calibration.double().requires_grad_(True)
    optimizer = torch.optim.LBFGS(calibration.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(calibration(z, seen), target)
        loss.backward()
        return loss

    optimizer.step(closure)
    calibration.float().requires_grad_(False)
