"""Calibration of a network's logits on samples that it wasn't trained on.

A new one is a module from logits (M,) and the network's inputs there (M, C) to logits, a line in
`CALIBRATIONS`, and its name among the settings.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH = 8


class Platt(nn.Module):
    """Platt scaling: scale z + offset (Platt 1999)."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.offset = nn.Parameter(torch.zeros(()))

    def forward(self, z: Tensor, inputs: Tensor) -> Tensor:
        """Calibrate logits z (M,); `inputs` (M, C) are ignored."""
        return self.scale * z + self.offset


class Temperature(nn.Module):
    """Temperature scaling: z / T (Guo et al. 2017, arXiv:1706.04599).

    T is positive, so that decisions at a probability of one half stay as they are.
    """

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.log_inverse = nn.Parameter(torch.zeros(()))  # -log T

    def forward(self, z: Tensor, inputs: Tensor) -> Tensor:
        """Calibrate logits z (M,); `inputs` (M, C) are ignored."""
        return z * self.log_inverse.exp()


class LocalTemperature(nn.Module):
    """Local temperature scaling: z / T, where T depends on the logit and the network's inputs at the voxel.

    Ding et al. 2021 (arXiv:2008.05105).
    """

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(inputs + 1, WIDTH)
        self.log_inverse = nn.Linear(WIDTH, 1)
        nn.init.zeros_(self.log_inverse.weight)
        nn.init.zeros_(self.log_inverse.bias)

    def forward(self, z: Tensor, inputs: Tensor) -> Tensor:
        """Calibrate logits z (M,) with the network's inputs (M, C)."""
        features = torch.cat([inputs, z[..., None]], dim=-1)
        return z * self.log_inverse(F.leaky_relu(self.hidden(features), 0.1))[..., 0].exp()


CALIBRATIONS: dict[str, Callable[[int], nn.Module]] = {
    "platt": Platt,
    "temperature": Temperature,
    "local_temperature": LocalTemperature,
}


def fit_calibration(calibration: nn.Module, z: Tensor, inputs: Tensor, right: Tensor) -> None:
    """Fit a calibration, in place, by maximum likelihood.

    With Platt's targets, which stay off 0 and 1, so that perfectly separated samples have a solution, too.

    Args:
        calibration: One of `CALIBRATIONS`.
        z: Logits (M,).
        inputs: The network's inputs there (M, C).
        right: 0 or 1 (M,).
    """
    if not len(z):  # atlases that agree everywhere: the calibration stays the identity
        return
    z, inputs = z.double(), inputs.double()
    count = right.double().sum()
    high, low = (count + 1) / (count + 2), 1 / (len(right) - count + 2)
    target = torch.where(right > 0.5, high, low)
    calibration.double().requires_grad_(True)
    optimizer = torch.optim.LBFGS(calibration.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(calibration(z, inputs), target)
        loss.backward()
        return loss

    optimizer.step(closure)
    calibration.float().requires_grad_(False)
