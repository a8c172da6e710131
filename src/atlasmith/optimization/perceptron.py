"""Perceptrons of coordinates: one for each image of a batch, whose weights an optimizer finds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from atlasmith.core.fields import per_channel
from atlasmith.core.sampling import coordinates

Activation = Literal["sine", "relu"]


class Perceptrons:
    """Map coordinates to vectors, for each image of a batch by weights of its own, which are equal at first.

    The first layer is sin(omega (W x + b)). So are the hidden ones (SIREN, Sitzmann et al. 2020,
    arXiv:2006.09661), whose derivatives are smooth too, or they are ReLU(W x + b), to which the first layer
    is an encoding of positions. The last layer is linear, with weights of 0, and initial weights are drawn
    from a generator of their own.

    Args:
        count: Number of images B.
        ndim: d, axes of the coordinates, which should be within [-1, 1].
        outputs: Components of the vectors.
        width: Features of each layer.
        depth: Layers before the last one.
        omega: Frequency of the sines, radians for each unit of the coordinates.
        activation: `sine` or `relu`, of all layers but the first.
        like: A tensor of the device and the type of the weights.

    Attributes:
        parameters: Weights (B, inputs, outputs) and biases (B, 1, outputs) of each layer, in turn.
    """

    def __init__(
        self,
        count: int,
        ndim: int,
        outputs: int,
        width: int,
        depth: int,
        omega: float,
        activation: Activation,
        like: Tensor,
    ) -> None:
        self.omega, self.activation = omega, activation
        random = torch.Generator().manual_seed(0)

        def uniform(inputs: int, limit: float) -> Tensor:
            return limit * (2 * torch.rand(inputs, width, generator=random, dtype=torch.float64) - 1)

        layers = []
        for layer in range(depth):
            inputs = width if layer else ndim
            limit = math.sqrt(6 / inputs) / (omega if activation == "sine" else 1) if layer else 1 / inputs
            layers += [uniform(inputs, limit), uniform(1, 1 / math.sqrt(inputs))]
        layers += [torch.zeros(width, outputs), torch.zeros(1, outputs)]
        # Repeated, not expanded: each image changes its own.
        self.parameters = [x.to(like).repeat(count, 1, 1).requires_grad_() for x in layers]

    @property
    def layers(self) -> list[tuple[Tensor, Tensor]]:
        """Weights and biases of each layer."""
        return list(zip(self.parameters[::2], self.parameters[1::2], strict=True))

    def _activate(self, layer: int, x: Tensor) -> Tensor:
        if layer and self.activation == "relu":
            return F.relu(x)
        return (self.omega * x).sin()

    def _slope(self, layer: int, x: Tensor) -> Tensor:
        """The derivative of `_activate`."""
        if layer and self.activation == "relu":
            return (x > 0).to(x)
        return self.omega * (self.omega * x).cos()

    def __call__(self, points: Tensor) -> Tensor:
        """Map coordinates (1 or B, N, d) to vectors (B, N, outputs)."""
        *hidden, (weight, bias) = self.layers
        x = points.expand(len(weight), *points.shape[1:])
        for layer, (own, shift) in enumerate(hidden):
            x = self._activate(layer, torch.baddbmm(shift, x, own))
        return torch.baddbmm(bias, x, weight)

    def jacobian(self, points: Tensor) -> Tensor:
        """Compute the derivatives of the vectors with respect to coordinates (1 or B, N, d), in closed form.

        Returns:
            (B, N, outputs, d), itself differentiable with respect to the weights.
        """
        *hidden, (weight, _) = self.layers
        x = points.expand(len(weight), *points.shape[1:])
        columns = list(hidden[0][0].split(1, dim=1))  # of the features, along each axis
        for layer, (own, shift) in enumerate(hidden):
            before = torch.baddbmm(shift, x, own)
            slope = self._slope(layer, before)
            columns = [slope * (column @ own if layer else column) for column in columns]
            x = self._activate(layer, before)
        return torch.stack([column @ weight for column in columns], dim=3)


def centered_coordinates(shape: Sequence[int], spacing: Sequence[float], like: Tensor) -> Tensor:
    """Return the positions (1, d, *shape) of a grid's voxels from its center, in halves of its longest side.

    Args:
        shape: Size (d) of the grid.
        spacing: Size (d) of its voxels, mm.
        like: A tensor of the device and the type of the result.
    """
    scale = half_length(shape, spacing)
    grid = coordinates(shape, like)
    centered = grid - per_channel([(n - 1) / 2 for n in shape], grid)
    return centered * per_channel([size / scale for size in spacing], grid)


def half_length(shape: Sequence[int], spacing: Sequence[float]) -> float:
    """Return half of the longest side of a grid between the centers of its outermost voxels, mm."""
    return max((n - 1) * size for n, size in zip(shape, spacing, strict=True)) / 2 or 1.0


def strided_shape(shape: Sequence[int], stride: int) -> list[int]:
    """Return the size of a grid with about every `stride`-th voxel of another, and its corners."""
    return [min(n, max(2, -(-n // stride))) for n in shape]
