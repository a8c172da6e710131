"""A network of coordinates for each image, whose output is added to the start's coefficients."""

from __future__ import annotations

import torch
from torch import Tensor

from atlasmith.core.choices import Positive
from atlasmith.core.fields import determinant, per_channel
from atlasmith.core.sampling import resize
from atlasmith.optimization.adam import minimize
from atlasmith.optimization.objective import InstanceObjective
from atlasmith.optimization.optimizer import Optimizer
from atlasmith.optimization.perceptron import (
    Activation,
    Perceptrons,
    centered_coordinates,
    half_length,
    strided_shape,
)


@Optimizer.declare(
    "Adam on the weights of a network of coordinates for each image (IDIR, DNVF). For smooth fields."
)
def coordinate_network(
    objective: InstanceObjective,
    start: Tensor,
    steps: int,
    learning_rate: float,
    width: int = 64,
    depth: int = 3,
    omega: Positive = 16.0,
    activation: Activation = "sine",
    stride: int = 2,
    rate: Positive = 0.002,
    jacobian: float = 0.0,
) -> list[Tensor]:
    """Minimize an objective by the weights of a perceptron from positions to coefficients.

    Its output at each voxel is added to the start's coefficients. With the parametrization `displacement`
    this is IDIR (Wolterink et al. 2022, Medical Imaging with Deep Learning, PMLR 172:1349-1359), with
    `stationary_velocity` DNVF, which starts from a network's prediction where there is one (Han et al. 2023,
    arXiv:2202.12498), and on `signed_distances` of labels NDF's flow between shapes (Sun et al. 2022,
    arXiv:2203.08652).

    IDIR has width 256, depth 3 and omega 32, and takes 2500 steps, each on 10,000 points. Here the network
    is smaller, for a CPU, and is evaluated at the points of a coarser grid, since similarities and
    regularizers are those of the run, on dense fields. Positions are in halves of the image's longest side,
    and the vectors in mm, whatever the shape of the voxels.

    Args:
        objective: As in `Optimizer`.
        start: As in `Optimizer`.
        steps: Number of steps.
        learning_rate: By how much the first step changes the coefficients, at most, in their smallest voxel.
        width: Features of each layer.
        depth: Layers before the last one.
        omega: Frequency of the sines: radians in half of the image's longest side.
        activation: `sine`, or `relu` after a first layer of sines.
        stride: The network is evaluated at every `stride`-th voxel of the coefficients along each axis.
        rate: Learning rate of the weights, to which that of the coefficients is scaled. A larger one moves
            the inner layers more, in comparison to the last.
        jacobian: Weight of the mean |det D phi - 1| where phi(x) = x + the network's vector (IDIR: 0.05), by
            the derivatives of the network in closed form; 0 for velocities.

    Returns:
        A few iterates.
    """
    ndim, shape = start.ndim - 2, start.shape[2:]
    spacing = objective.spacing(shape)
    inner = strided_shape(shape, stride)
    inner_spacing = objective.spacing(inner)
    points = centered_coordinates(inner, inner_spacing, start).flatten(2).mT
    network = Perceptrons(len(start), ndim, start.shape[1], width, depth, omega, activation, start)
    scale = learning_rate / (rate * width)  # by which a step on the last layer is one of `learning_rate`

    def coefficients() -> Tensor:
        vectors = network(points).mT.unflatten(2, inner)
        in_voxels = [scale * min(spacing) / spacing[i % ndim] for i in range(start.shape[1])]
        return start + resize(vectors * per_channel(in_voxels, vectors), shape)

    def loss(direction: int) -> Tensor:
        value = objective(coefficients(), [direction]).loss
        if jacobian:
            slope = scale * min(spacing) / half_length(inner, inner_spacing)
            value = value + jacobian * volume_change(slope * network.jacobian(points)[:, :, :ndim])
        return len(start) * value

    return minimize(loss, torch.optim.Adam(network.parameters, lr=rate), coefficients, steps)


def volume_change(gradient: Tensor) -> Tensor:
    """Compute the mean |det (I + D u) - 1| of derivatives D u (B, N, d, d)."""
    identity = torch.eye(gradient.shape[-1], device=gradient.device, dtype=gradient.dtype)
    rows = (gradient + identity).transpose(1, 3).unbind(2)
    return (determinant(rows) - 1).abs().mean()
