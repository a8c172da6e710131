"""Displacements whose coordinates increase along their own axis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from atlasmith.core.fields import compose
from atlasmith.transforms.parametrization import (
    DIRECTIONS,
    FORWARD,
    DeformationModel,
    Parametrization,
    with_inverse,
)

SMALLEST = 1e-3  # derivative of a coordinate along its axis that `fit` gives where a displacement folds


@dataclass(frozen=True)
class IntegratedGradients(DeformationModel):
    """Integrate non-negative derivatives of each coordinate of the map along its own axis.

    (Christodoulidis et al. 2018, arXiv:1809.06226.) Component i of the coefficients (B, d, *shape) has along
    axis i differences s, of which 1 + elu(s) > 0 is the derivative of coordinate i: 1 + s where that
    stretches, exp(s) where it shrinks. The paper's network predicts derivatives, and integrates them from
    one border; here the mean of a component along its axis is that of the displacement, so that both borders
    are alike and translations are possible. Where coordinates don't influence each other the map is
    invertible; shears may still fold it.
    """

    def maps(
        self,
        coefficients: Tensor,
        spacing: Sequence[float],
        directions: Sequence[int] = DIRECTIONS,
        save_memory: bool = False,
    ) -> dict[int, Tensor]:
        """Return the displacement, and its inverse by fixed-point iteration."""
        return with_inverse(_change_differences(coefficients, F.elu), directions, save_memory)

    def compose(self, outer: Tensor, inner: Tensor, spacing: Sequence[float]) -> Tensor:
        """Return the coefficients (B, d, *shape) of outer after inner."""
        outer, inner = (self.maps(x, spacing, [FORWARD])[FORWARD] for x in (outer, inner))
        return self.fit(compose(outer, inner), spacing)

    def fit(self, displacement: Tensor, spacing: Sequence[float]) -> Tensor:
        """Return the coefficients of a displacement (B, d, *shape), exact where each coordinate increases
        along its own axis."""
        return _change_differences(displacement, _inverse_elu)


def _change_differences(fields: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply a function to the differences of each component of fields (B, d, *shape) along its own axis, and
    keep its mean along it."""
    changed = []
    for axis, component in enumerate(fields.unbind(1), start=1):
        path = function(component.diff(dim=axis)).cumsum(dim=axis)
        path = torch.cat([torch.zeros_like(component.narrow(axis, 0, 1)), path], dim=axis)
        changed.append(path + (component - path).mean(dim=axis, keepdim=True))
    return torch.stack(changed, dim=1)


def _inverse_elu(values: Tensor) -> Tensor:
    return torch.where(values > 0, values, values.clamp(SMALLEST - 1, 0).log1p())


integrated_gradients = Parametrization(
    IntegratedGradients,
    "A displacement whose coordinates increase along their own axis, by integrated derivatives. For "
    "comparison; shears may fold.",
    diffeomorphic=False,
)
