"""Velocities that change in time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from atlasmith.core.checkpointing import checkpoint
from atlasmith.core.sampling import warp
from atlasmith.transforms.parametrization import (
    DIRECTIONS,
    FORWARD,
    DeformationModel,
    Parametrization,
)


@dataclass(frozen=True)
class TimeSeries(DeformationModel):
    """Hold in the coefficients (B, times * d, *shape) a field for each of several intervals of time, of equal
    length: the base of models that apply them one after the other.

    The tangent is their mean. A composition has the fields of the inner map, then those of the outer one, of
    which each two successive ones are added: it is exact where these are equal.
    """

    times: int = 4

    def channels(self, ndim: int) -> int:
        """Return the number of components of all fields."""
        return self.times * ndim

    def fields(self, coefficients: Tensor) -> Tensor:
        """Return the fields (B, times, d, *shape)."""
        return coefficients.unflatten(1, (self.times, -1))

    def tangent(self, coefficients: Tensor, spacing: Sequence[float]) -> Tensor:
        """Return the mean (B, d, *shape) of the fields."""
        return self.fields(coefficients).mean(dim=1)

    def lift(self, velocity: Tensor, spacing: Sequence[float]) -> Tensor:
        """Return coefficients whose fields are all the velocity (B, d, *shape)."""
        return velocity.repeat(1, self.times, *[1] * (velocity.ndim - 2))

    def regularized(self, coefficients: Tensor, spacing: Sequence[float]) -> Tensor:
        """Return the fields (B * times, d, *shape): a regularizer takes the mean over time."""
        return self.fields(coefficients).flatten(0, 1)

    def compose(self, outer: Tensor, inner: Tensor, spacing: Sequence[float]) -> Tensor:
        """Return the coefficients of outer after inner."""
        series = torch.cat([self.fields(inner), self.fields(outer)], dim=1)
        return series.unflatten(1, (self.times, 2)).sum(dim=2).flatten(1, 2)


@dataclass(frozen=True)
class TimeDependentVelocity(TimeSeries):
    """Integrate a velocity that is constant within each interval: d phi_t / dt = v_t(phi_t), phi_0 = id.

    The velocity is evaluated at phi_t, and for the inverse map the negative velocities are integrated from
    the last to the first (Chen et al. 2022, "Unsupervised learning of diffeomorphic image registration via
    TransMorph", WBIR; Xu et al. 2021, "Multi-scale neural ODEs for 3D medical image registration", MICCAI).

    Args:
        integration_steps: Unused.
        times: Number of velocities, in voxels per unit of time, which lasts from 0 to 1.
        steps: Steps of the solver in each interval.
        solver: `euler`, of first order, or `midpoint`, the Runge-Kutta method of second order.
    """

    steps: int = 2
    solver: Literal["midpoint", "euler"] = "midpoint"

    def maps(
        self,
        coefficients: Tensor,
        spacing: Sequence[float],
        directions: Sequence[int] = DIRECTIONS,
        save_memory: bool = False,
    ) -> dict[int, Tensor]:
        """Integrate the velocities (B, times * d, *shape) forward and backward in time."""
        forward = self.fields(coefficients) / (self.times * self.steps)
        series = torch.cat([forward if i == FORWARD else -forward.flip(1) for i in directions])
        displacement = torch.zeros_like(series[:, 0])
        step: Callable[[Tensor, Tensor], Tensor] = _midpoint if self.solver == "midpoint" else _euler
        for time in range(self.times):
            for _ in range(self.steps):
                arguments = displacement, series[:, time]
                displacement = checkpoint(step, *arguments) if save_memory else step(*arguments)
        return dict(zip(directions, displacement.chunk(len(directions)), strict=True))


def _euler(displacement: Tensor, velocity: Tensor) -> Tensor:
    """Displacement (B, d, *shape) after a step of a velocity (B, d, *shape), voxels per step."""
    return displacement + warp(velocity, displacement, padding="border")


def _midpoint(displacement: Tensor, velocity: Tensor) -> Tensor:
    """The same with the velocity in the middle of the step."""
    return displacement + warp(velocity, _euler(displacement, velocity / 2), padding="border")


time_dependent_velocity = Parametrization(
    TimeDependentVelocity,
    "Several velocities, one after the other in time. For large deformations, whose path a stationary "
    "velocity restricts.",
    diffeomorphic=True,
)
