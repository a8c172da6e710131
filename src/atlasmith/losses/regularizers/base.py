"""The kind of entry that REGULARIZERS holds, and the weighted mean that all regularizers use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from atlasmith.core.choices import Choice
from atlasmith.losses.similarity.filters import box_mean

Need = Literal["velocity", "forward", "inverse", "fixed", "log_variance", "pair_dependence"]


@dataclass(frozen=True)
class Regularizer(Choice[Tensor]):
    """Declare a regularizer: the cost of a deformation, a scalar.

    The function takes the inputs that it declares in `needs`, as keyword arguments of these names, then the
    `spacing` (d) of their voxels in mm, and its settings. Fields are (B, d, *shape), d 2 or 3, in mm; channel
    d is the component along axis d, and a displacement u is a pull-back, phi(x) = x + u(x).

    Most take `voxel_weight` (1 or B, 1, *shape), a weight of each voxel in the mean; where a value stems from
    differences, it is the mean over the voxels that they span.

    Args:
        function: As in `Choice`.
        text: As in `Choice`.
        needs: `velocity`, a stationary velocity field; `forward` and `inverse`, displacements of two maps
            that should be each other's inverse; `fixed`, the fixed image (B, 1, *shape); `log_variance`, the
            logarithm of the variance, in mm^2, of each component of the velocity (B, d, *shape), which only a
            network in training gives; `pair_dependence`, how far the subjects of a batch depend on each other
            for being drawn without replacement (see `centrality`), which only training gives.

    Example:
        >>> @Regularizer.declare("Largest component of the velocity.", needs=("velocity",))
        ... def largest(velocity, spacing, power=1.0):
        ...     return velocity.abs().amax() ** power
        >>> largest(velocity=torch.full((1, 2, 4, 4), 3.0), spacing=(1.0, 1.0), power=2.0)
        tensor(9.)
    """

    needs: tuple[Need, ...] = ("velocity",)

    @property
    def training_only(self) -> bool:
        """Whether it is undefined for one subject's velocity, as instance optimization has it."""
        return "pair_dependence" in self.needs or "log_variance" in self.needs

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        """Compute the cost in float32 at least, without autocast, which would sum in half precision."""

        def upcast(x: Any) -> Any:
            return x.float() if isinstance(x, Tensor) and x.dtype != torch.float64 else x

        device = next(x.device for x in (*args, *kwargs.values()) if isinstance(x, Tensor))
        with torch.autocast(device.type, enabled=False):
            return self.function(*map(upcast, args), **{name: upcast(x) for name, x in kwargs.items()})


def average(values: Tensor, voxel_weight: Tensor | None) -> Tensor:
    """Average over the batch, channels and voxels, weighted.

    Args:
        values: (B, C, *inner), each of which spans shape - inner + 1 voxels along an axis.
        voxel_weight: (1 or B, 1, *shape), averaged over the voxels that a value spans; None: all 1.

    Returns:
        A scalar: the sum of the weighted values over their number; 0 without values, as on an axis of one
        voxel.
    """
    if voxel_weight is not None:
        spans = [n - m + 1 for n, m in zip(voxel_weight.shape[2:], values.shape[2:], strict=True)]
        values = values * box_mean(voxel_weight, spans)
    return values.sum() / max(values.numel(), 1)
