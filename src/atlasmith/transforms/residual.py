"""Compositions of residual maps with bounded derivatives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from atlasmith.core.checkpointing import checkpoint
from atlasmith.core.choices import Fraction
from atlasmith.core.fields import compose, invert, to_mm
from atlasmith.transforms.parametrization import DIRECTIONS, FORWARD, Parametrization
from atlasmith.transforms.time_dependent import TimeSeries


@dataclass(frozen=True)
class ResidualFlow(TimeSeries):
    """Compose residual maps id + g_t, each of which is invertible since |g_t(x) - g_t(y)| < |x - y|.

    As the residual blocks of R2Net (Joshi and Hong 2023, "R2Net: Efficient and flexible diffeomorphic image
    registration using Lipschitz continuous residual networks", Medical Image Analysis). There spectral norms
    of layers bound the Lipschitz constants; here a field is divided by an upper bound of its own, if that is
    above `lipschitz`. The inverse map composes those of the residual maps, found by fixed-point iteration.

    Args:
        integration_steps: Unused.
        times: Number of residual maps; g_t is the field of the coefficients over their number.
        lipschitz: Largest Lipschitz constant of a residual map, in mm per mm, below 1. At 0.5 it shrinks
            lengths by half at most, and each iteration for its inverse halves the error at least.
    """

    lipschitz: Fraction = 0.5

    def maps(
        self,
        coefficients: Tensor,
        spacing: Sequence[float],
        directions: Sequence[int] = DIRECTIONS,
        save_memory: bool = False,
    ) -> dict[int, Tensor]:
        """Compose residual maps of coefficients (B, times * d, *shape), and their inverses."""
        fields = self.fields(coefficients).flatten(0, 1) / self.times
        bound = squared_lipschitz(to_mm(fields, spacing), spacing).clamp(min=self.lipschitz**2)
        fields = fields * (self.lipschitz / bound.sqrt()).view(-1, *[1] * (fields.ndim - 1))
        maps = {}
        for direction in directions:
            residuals = fields
            if direction != FORWARD:
                residuals = checkpoint(invert, fields) if save_memory else invert(fields)
            first, *others = residuals.unflatten(0, (-1, self.times)).unbind(1)[::direction]
            for residual in others:
                first = checkpoint(compose, residual, first) if save_memory else compose(residual, first)
            maps[direction] = first
        return maps


def squared_lipschitz(field: Tensor, spacing: Sequence[float]) -> Tensor:
    """Bound the Lipschitz constants of linearly interpolated fields from above.

    Along an axis, the derivative within a voxel is a weighted mean of differences along its edges.

    Args:
        field: (B, d, *shape), mm.
        spacing: Size (d) of voxels, mm.

    Returns:
        Squares (B) of the bounds: the sum over the axes of the largest squared length of a difference.

    Example:
        >>> import torch
        >>> squared_lipschitz(torch.eye(2).view(1, 1, 2, 2).repeat(1, 2, 1, 1), (1.0, 0.5))
        tensor([10.])
    """
    total = field.new_zeros(len(field))
    for axis, size in enumerate(spacing, start=2):
        if field.shape[axis] > 1:
            total = total + (field.diff(dim=axis) / size).square().sum(dim=1).flatten(1).amax(dim=1)
    return total


residual_flow = Parametrization(
    ResidualFlow,
    "Residual maps, one after the other, each with a derivative bounded below 1, as in R2Net. For "
    "comparison: a sharp detail anywhere weakens a whole residual map.",
    diffeomorphic=True,
)
