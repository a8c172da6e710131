"""A flow whose velocity is a network of the moving points' positions, found for each image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from atlasmith.core.choices import Positive
from atlasmith.core.fields import per_channel, resize_displacement, to_mm
from atlasmith.core.sampling import half_shape, smooth
from atlasmith.losses import REGULARIZERS
from atlasmith.optimization.adam import level_shapes, minimize
from atlasmith.optimization.objective import InstanceObjective
from atlasmith.optimization.optimizer import Optimizer
from atlasmith.optimization.perceptron import (
    Perceptrons,
    centered_coordinates,
    half_length,
    strided_shape,
)
from atlasmith.transforms import FORWARD, deformation_model

Solver = Literal["euler", "rk4"]
EXTENT = 0.013  # standard deviation of NODEO's smoothing, of its images' longest side


def integrate(
    velocity: Callable[[Tensor], Tensor], points: Tensor, time_steps: int, solver: Solver = "euler"
) -> Tensor:
    """Integrate dx/dt = velocity(x) from t = 0 to 1, by steps of equal length.

    Args:
        velocity: From points to their velocities, of the same shape.
        points: Those at t = 0.
        time_steps: Number of steps.
        solver: `euler`, of first order, or `rk4`, the Runge-Kutta method of fourth order.

    Returns:
        The points at t = 1.

    Example:
        >>> points = torch.ones(1, dtype=torch.float64)
        >>> [round(integrate(lambda x: x, points, 10, s).item(), 4) for s in ("euler", "rk4")]
        [2.5937, 2.7183]
    """
    step = 1 / time_steps
    for _ in range(time_steps):
        slope = velocity(points)
        if solver == "rk4":
            second = velocity(points + step / 2 * slope)
            third = velocity(points + step / 2 * second)
            fourth = velocity(points + step * third)
            slope = (slope + 2 * second + 2 * third + fourth) / 6
        points = points + step * slope
    return points


@Optimizer.declare(
    "The flow of a network of the points' positions, coarse to fine (NODEO). For large shifts."
)
def neural_ode(
    objective: InstanceObjective,
    start: Tensor,
    steps: int,
    learning_rate: float,
    levels: int = 1,
    time_steps: int = 4,
    solver: Solver = "euler",
    width: int = 64,
    depth: int = 2,
    omega: Positive = 12.0,
    stride: int = 2,
    smoothing: float = EXTENT,
    rate: Positive = 0.005,
    folding: float = 2.5,
    energy: float = 5e-5,
) -> list[Tensor]:
    """Minimize an objective by the weights of the velocity in d phi / dt = K * v(phi).

    (NODEO, Wu et al. 2022, arXiv:2108.03443.) phi maps each voxel to a point, from the start's map at t = 0
    to the result at t = 1; K is Gaussian smoothing over voxels. The objective is the run's, whose velocities
    are displacements here, and two terms of NODEO are added. The map then becomes coefficients of the run's
    parametrization. On several levels, as in the cascade of MS-ODENet (Xu et al. 2021, arXiv:2106.08493),
    each begins where the flow of the one before ends.

    v is a perceptron of a point's position, where NODEO has convolutions over the whole map. Its term of the
    displacement's gradient is the run's `diffusion`, and it takes 300 steps. MS-ODENet learns its optimizer
    from a data set; here nothing is learned beforehand.

    Args:
        objective: As in `Optimizer`.
        start: As in `Optimizer`.
        steps: Number of steps on each level.
        learning_rate: By how much the first step changes the map, at most, in the smallest voxel of the
            level's coefficients.
        levels: Levels of resolution, as of `adam`.
        time_steps: Steps of the integration.
        solver: `euler`, or `rk4`, of four times the cost.
        width: Features of each layer.
        depth: Layers before the last one.
        omega: Frequency of the sines: radians in half of the image's longest side.
        stride: The flow is computed at every `stride`-th voxel of the coefficients along each axis.
        smoothing: Standard deviation of K as a share of the image's longest side; 0: none.
        rate: Learning rate of the weights, as of `coordinate_network`.
        folding: Weight of the mean ReLU(0.5 - det D phi)^2.
        energy: Weight of the mean squared velocity, mm^2.

    Returns:
        A few iterates of the finest level.
    """
    spacing = objective.spacing(start.shape[2:])
    moved = objective.deformation.maps(start, spacing, [FORWARD])[FORWARD].detach()
    of_maps = replace(objective, deformation=deformation_model("displacement"))
    penalties, candidates = _Penalties(folding, energy), []
    sizes = level_shapes(objective, levels)
    for size in sizes:
        level, half = of_maps.at(size), half_shape(size)
        voxels = objective.spacing(half)
        network = Perceptrons(len(start), len(half), len(half), width, depth, omega, "sine", start)
        speed = learning_rate * min(voxels) / (rate * width)
        flow = _Flow(network, speed, time_steps, solver, stride, smoothing)
        loss = partial(_loss, level, flow, resize_displacement(moved, half), voxels, penalties)
        result = partial(_coefficients, objective, flow, moved, spacing)
        iterate = result if size == sizes[-1] else start.clone  # coarse levels are no candidates
        candidates = minimize(loss, torch.optim.Adam(network.parameters, lr=rate), iterate, steps)
        with torch.no_grad():
            moved = flow.follow(moved, spacing)[0]
    return candidates


@dataclass(frozen=True)
class _Penalties:
    """Weights of NODEO's own terms."""

    folding: float
    energy: float


@dataclass(frozen=True, eq=False)
class _Flow:
    """The flow of a perceptron, whose output times `speed` is a velocity in mm."""

    network: Perceptrons
    speed: float
    time_steps: int
    solver: Solver
    stride: int
    smoothing: float

    def follow(self, displacement: Tensor, spacing: Sequence[float]) -> tuple[Tensor, Tensor]:
        """Move the points of a map.

        Args:
            displacement: Where they are at t = 0: (B, d, *shape), voxels.
            spacing: Size (d) of these voxels, mm.

        Returns:
            Where they are at t = 1, likewise, and their mean squared velocity, mm^2.
        """
        shape = displacement.shape[2:]
        scale = half_length(shape, spacing)
        inner = strided_shape(shape, self.stride)
        sizes = [x * max(n - 1, 1) / max(m - 1, 1) for x, n, m in zip(spacing, shape, inner, strict=True)]
        sigmas = [2 * scale * self.smoothing / size for size in sizes]
        squares = []

        def velocity(points: Tensor) -> Tensor:
            vectors = self.network(points.flatten(2).mT).mT.unflatten(2, inner)
            vectors = smooth(self.speed / scale * vectors, sigmas)
            squares.append(vectors.square().sum(dim=1).mean())
            return vectors

        start = centered_coordinates(inner, sizes, displacement)
        start = start + to_mm(resize_displacement(displacement, inner), sizes) / scale
        moved = integrate(velocity, start, self.time_steps, self.solver)
        change = (moved - start) * scale / per_channel(sizes, moved)
        return displacement + resize_displacement(change, shape), scale**2 * torch.stack(squares).mean()


def _loss(
    objective: InstanceObjective,
    flow: _Flow,
    start: Tensor,
    spacing: Sequence[float],
    penalties: _Penalties,
    direction: int,
) -> Tensor:
    """The objective of the map that the flow makes of a displacement (B, d, *half), with NODEO's terms."""
    found, square = flow.follow(start, spacing)
    folds = REGULARIZERS["folding"](forward=to_mm(found, spacing), spacing=spacing, threshold=0.5, power=2.0)
    value = objective(found, [direction]).loss
    return len(start) * (value + penalties.folding * folds + penalties.energy * square)


def _coefficients(
    objective: InstanceObjective, flow: _Flow, start: Tensor, spacing: Sequence[float]
) -> Tensor:
    """The run's coefficients of the map that the flow makes of a displacement (B, d, *half)."""
    return objective.fit(flow.follow(start, spacing)[0])
