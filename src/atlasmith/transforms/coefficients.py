"""Coefficients of a deformation, with their uncertainty."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Coefficients:
    """Coefficients of a deformation, such as velocities, or a Gaussian posterior of them (Dalca et al. 2019,
    doi:10.1016/j.media.2019.07.006).

    Args:
        mean: The coefficients, or the posterior's mean, (B, channels, *shape), in voxels of their grid.
        log_variance: Logarithm of the posterior's variance (B, channels, *shape), squared voxels.
        noise: Standard normal noise (B, channels, *shape), by which they are sampled from the posterior.
    """

    mean: Tensor
    log_variance: Tensor | None = None
    noise: Tensor | None = None

    @property
    def sampled(self) -> Tensor:
        """The coefficients (B, channels, *shape) sampled with the noise; without noise, the mean."""
        if self.log_variance is None or self.noise is None:
            return self.mean
        return self.mean + (self.log_variance / 2).exp() * self.noise
