"""Stationary velocities, certain or not."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Velocity:
    """Stationary velocities (B, d, *shape), in voxels of their grid.

    With `log_variance` (B, d, *shape), of squared voxels, `mean` is the mean of a Gaussian posterior, from
    which standard normal `noise` draws (Dalca et al. 2019, doi:10.1016/j.media.2019.07.006).
    """

    mean: Tensor
    log_variance: Tensor | None = None
    noise: Tensor | None = None

    @property
    def sampled(self) -> Tensor:
        """The velocities themselves: the mean, where there is no noise."""
        if self.log_variance is None or self.noise is None:
            return self.mean
        return self.mean + (self.log_variance / 2).exp() * self.noise
