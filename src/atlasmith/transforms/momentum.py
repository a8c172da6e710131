"""Initial momenta, from which geodesics of diffeomorphisms are shot."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from atlasmith.core.checkpointing import checkpoint
from atlasmith.core.choices import Positive
from atlasmith.core.cosines import cosine_transform, laplacian_eigenvalues
from atlasmith.core.fields import per_channel
from atlasmith.core.sampling import warp
from atlasmith.transforms.parametrization import (
    DIRECTIONS,
    FORWARD,
    INVERSE,
    DeformationModel,
    Parametrization,
)

LIFT_DAMPING = 1e-4  # of the inverse kernel: a frequency that the kernel reduces to 1 % is halved
VOXELS_PER_STEP = 2.0  # largest velocity along an axis
# Weights of the four slopes of a Runge-Kutta step in the third-order interpolant at its middle.
MIDDLE = (5 / 24, 1 / 6, 1 / 6, -1 / 24)


@dataclass(frozen=True)
class Momentum(DeformationModel):
    """Shoot a geodesic of diffeomorphisms from an initial momentum (LDDMM).

    (Miller, Trouvé and Younes 2006, doi:10.1007/s10851-005-3624-0.) The metric is that of the operator
    L = (gamma - alpha Laplacian)^power on fields that are mirrored at the image's borders, with the kernel
    K = L^-1. The momentum m evolves by EPDiff,

        dm/dt = -(Dv)^T m - div(m v^T),  v = K m,

    the forward displacement is the flow of v until time 1, and the inverse is the flow back. This is what
    Quicksilver's network predicts (Yang et al. 2017, doi:10.1016/j.neuroimage.2017.07.008), which advects the
    momentum by the inverse map (Singh et al. 2013, ISBI, "A vector momenta formulation of diffeomorphisms");
    here the stencils of both terms are each other's transposes, so that the energy changes by the error of
    the Runge-Kutta steps alone, whatever the grid, and rough momenta are stable. Velocities are limited to
    two voxels per step, beyond which the steps would be unstable.

    The coefficients (B, d, *shape) are the momentum divided by gamma^power: where it is constant it is the
    initial velocity, in voxels. The kernel smooths it to the velocity, roughly by a Gaussian with a variance
    of 2 power alpha / gamma mm^2. Half of the `sobolev` regularizer with half the power is the energy for
    each voxel.

    Args:
        integration_steps: Unused.
        alpha: Weight of the Laplacian, mm^2.
        gamma: Weight of the velocity itself.
        power: Power of the operator; maps are diffeomorphisms above 1 + d / 2.
        time_steps: Fourth-order Runge-Kutta steps until time 1.
    """

    alpha: float = 1.0
    gamma: Positive = 1.0
    power: float = 3.0
    time_steps: int = 6

    def maps(
        self,
        coefficients: Tensor,
        spacing: Sequence[float],
        directions: Sequence[int] = DIRECTIONS,
        save_memory: bool = False,
    ) -> dict[int, Tensor]:
        """Shoot along the geodesic, and integrate its velocities forward and back."""
        velocities = self._shoot(coefficients, spacing, save_memory)[0]
        paths = {FORWARD: velocities, INVERSE: [-velocity for velocity in reversed(velocities)]}
        return {direction: _flow(paths[direction], save_memory) for direction in directions}

    def tangent(self, coefficients: Tensor, spacing: Sequence[float]) -> Tensor:
        """Return the initial velocity: the coefficients smoothed by the kernel."""
        return self._filter(coefficients, spacing, lambda kernel: kernel)

    def lift(self, velocity: Tensor, spacing: Sequence[float]) -> Tensor:
        """Return the momentum of an initial velocity: the inverse kernel, damped at high frequencies."""
        return self._filter(velocity, spacing, lambda kernel: kernel / (kernel.square() + LIFT_DAMPING))

    def metric(self, coefficients: Tensor, spacing: Sequence[float]) -> Tensor:
        """Map coefficients (B, d, *shape) to their dual: the sum of others times it is the inner product
        <m, K m'>, mm^2 times the volume. Arguments as in `maps`; see `principal_modes`."""
        scale = self.gamma**self.power * math.prod(spacing)
        units = [scale * size**2 for size in spacing]
        return per_channel(units, coefficients) * self.tangent(coefficients, spacing)

    def energy(self, coefficients: Tensor, spacing: Sequence[float]) -> Tensor:
        """Compute the Hamiltonian <m, K m> / 2, constant along a geodesic.

        Args:
            coefficients: (B, d, *shape), in voxels of their grid.
            spacing: Size (d) of these voxels, mm.

        Returns:
            (B,), mm^2 times the volume, mm^d.
        """
        return (coefficients * self.metric(coefficients, spacing)).flatten(1).sum(dim=1) / 2

    def shoot(self, coefficients: Tensor, spacing: Sequence[float]) -> tuple[Tensor, Tensor]:
        """Follow a geodesic until time 1.

        Args:
            coefficients: (B, d, *shape), in voxels of their grid.
            spacing: Size (d) of these voxels, mm.

        Returns:
            The forward displacement (B, d, *shape), voxels, and the coefficients of the momentum there: their
            negative shoots back.
        """
        velocities, momentum = self._shoot(coefficients, spacing)
        return _flow(velocities), momentum

    def geodesic(
        self, coefficients: Tensor, spacing: Sequence[float], times: Sequence[float]
    ) -> list[Tensor]:
        """Compute displacements along a geodesic, and beyond its end.

        Args:
            coefficients: (B, d, *shape), in voxels of their grid.
            spacing: Size (d) of these voxels, mm.
            times: Any numbers; at 0 is the identity, at 1 the map of the coefficients.

        Returns:
            For each time its forward displacement (B, d, *shape), voxels.

        Example:
            >>> model, shift = Momentum(6), torch.full((1, 2, 32, 32), 0.5)
            >>> displacements = model.geodesic(shift, (1.0, 1.0), [0.0, 0.5, 2.0])
            >>> [round(float(u[0, 0, 16, 16]), 2) for u in displacements]
            [0.0, 0.25, 1.0]
        """
        found = []
        for time in times:
            # A momentum that is t times as large reaches at time 1 what the other does at time t.
            model = replace(self, time_steps=max(1, math.ceil(abs(time) * self.time_steps)))
            found.append(model.maps(time * coefficients, spacing, [FORWARD])[FORWARD])
        return found

    def _filter(self, fields: Tensor, spacing: Sequence[float], gain: Callable[[Tensor], Tensor]) -> Tensor:
        """Multiply the spectrum of fields (B, C, *shape) by a function of the kernel, 1 at frequency 0."""
        eigenvalues = laplacian_eigenvalues(fields.shape[2:], spacing, fields)
        kernel = (1 + self.alpha / self.gamma * eigenvalues) ** -self.power
        with torch.autocast(fields.device.type, enabled=False):
            return cosine_transform(gain(kernel) * cosine_transform(fields), inverse=True)

    def _shoot(
        self, coefficients: Tensor, spacing: Sequence[float], save_memory: bool = False
    ) -> tuple[list[Tensor], Tensor]:
        """Integrate EPDiff by the classical Runge-Kutta method.

        Returns:
            The velocities (B, d, *shape) at 0, h/2, h, ... 1, voxels, where h is the step; and the
            coefficients at time 1.
        """
        time_steps, ndim = self.time_steps, coefficients.shape[1]

        def step(momentum: Tensor) -> Tensor:
            """The next momentum, and the velocities now and half a step later."""
            h, slopes, stage, velocities = 1 / time_steps, [], momentum, []
            for advance in (h / 2, h / 2, h, 0.0):
                velocities.append(self.tangent(stage, spacing).clamp(-limit, limit))
                slopes.append(_epdiff(stage, velocities[-1], spacing))
                stage = momentum + advance * slopes[-1]
            first, second, third, fourth = slopes
            following = momentum + h / 6 * (first + 2 * second + 2 * third + fourth)
            middle = momentum + h * sum(w * slope for w, slope in zip(MIDDLE, slopes, strict=True))
            velocities.append(self.tangent(middle, spacing).clamp(-limit, limit))
            return torch.cat([following, velocities[0], velocities[-1]], dim=1)

        units = per_channel(spacing, coefficients)
        limit = VOXELS_PER_STEP * time_steps * units
        momentum, path = units * coefficients, []
        for _ in range(time_steps):
            after = checkpoint(step, momentum) if save_memory else step(momentum)
            momentum, *velocities = after.split(ndim, dim=1)
            path += velocities
        path.append(self.tangent(momentum, spacing).clamp(-limit, limit))
        return [velocity / units for velocity in path], momentum / units


def _epdiff(momentum: Tensor, velocity: Tensor, spacing: Sequence[float]) -> Tensor:
    """Rate of change (B, d, *shape) of a momentum that is transported by a velocity, both in mm."""
    stretched, advected = [], torch.zeros_like(momentum)
    for axis, size in enumerate(spacing):
        stretched.append((_slope(velocity, axis, size) * momentum).sum(dim=1))
        advected = advected + _slope(velocity[:, axis : axis + 1] * momentum, axis, size, flux=True)
    return -torch.stack(stretched, dim=1) - advected


def _slope(field: Tensor, axis: int, size: float, flux: bool = False) -> Tensor:
    """Central difference along an axis, per mm, of a field that is mirrored at the border; of a flux, which
    is mirrored with the opposite sign, as minus the transpose of the former needs."""
    first, last = field.narrow(axis + 2, 0, 1), field.narrow(axis + 2, field.shape[axis + 2] - 1, 1)
    padded = torch.cat([-first, field, -last] if flux else [first, field, last], dim=axis + 2)
    n = field.shape[axis + 2]
    return (padded.narrow(axis + 2, 2, n) - padded.narrow(axis + 2, 0, n)) / (2 * size)


def _flow(velocities: Sequence[Tensor], save_memory: bool = False) -> Tensor:
    """Integrate velocities at 0, h/2, h, ... 1 to a displacement (B, d, *shape), voxels, by the classical
    Runge-Kutta method."""
    h = 2 / (len(velocities) - 1)

    def step(displacement: Tensor, now: Tensor, middle: Tensor, later: Tensor) -> Tensor:
        def at(velocity: Tensor, change: Tensor) -> Tensor:
            return warp(velocity, displacement + change, padding="border")

        first = warp(now, displacement, padding="border")
        second = at(middle, h / 2 * first)
        third = at(middle, h / 2 * second)
        fourth = at(later, h * third)
        return displacement + h / 6 * (first + 2 * second + 2 * third + fourth)

    displacement = torch.zeros_like(velocities[0])
    for index in range(0, len(velocities) - 1, 2):
        tensors = displacement, *velocities[index : index + 3]
        displacement = checkpoint(step, *tensors) if save_memory else step(*tensors)
    return displacement


momentum = Parametrization(
    Momentum,
    "The geodesic of an initial momentum under a Sobolev metric, as in LDDMM. For statistics of shapes.",
    diffeomorphic=True,
)
