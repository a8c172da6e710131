"""Unrolled steps of a variational optimization, with a learned regularizer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atlasmith.core.fields import determinant
from atlasmith.core.sampling import half_shape
from atlasmith.networks.blocks import NO_NORM
from atlasmith.networks.registration.base import VELOCITY_SCALE, Network, RegistrationNetwork
from atlasmith.networks.unet import UNet


def intensity_step(fixed: Tensor, moved: Tensor, penalty: Tensor) -> Tensor:
    """Compute the step that makes a warped image resemble the fixed one, at each voxel by itself.

    The minimum over s of |moved + s . grad moved - fixed|^2 + penalty |s|^2, summed over channels: where the
    similarity, linear in the displacement, and the distance to the displacement so far are balanced. For one
    channel it is -(moved - fixed) grad moved / (|grad moved|^2 + penalty), the force of the demons.

    Args:
        fixed: (B, C, *shape).
        moved: The moving image (B, C, *shape), warped by the displacement so far.
        penalty: A positive number ().

    Returns:
        The step (B, d, *shape), voxels.

    Example:
        >>> ramp = torch.arange(5.0).expand(1, 1, 5, 5)  # along the last axis
        >>> intensity_step(ramp + 1, ramp, torch.tensor(0.25))[0, 1, 2, 2]
        tensor(0.8000)
    """
    slopes = torch.stack(torch.gradient(moved, dim=tuple(range(2, moved.ndim))), dim=1)  # (B, d, C, *shape)
    force = -(slopes * (moved - fixed)[:, None]).sum(2)
    ndim = slopes.shape[1]
    rows = [(slopes * slopes[:, axis : axis + 1]).sum(2) for axis in range(ndim)]
    identity = torch.eye(ndim, device=force.device, dtype=force.dtype).view(ndim, 1, ndim, *[1] * ndim)
    rows = [row + penalty * one for row, one in zip(rows, identity, strict=True)]
    # Cramer's rule: the matrix is symmetric, so that its rows are its columns.
    steps = [determinant([*rows[:axis], force, *rows[axis + 1 :]]) for axis in range(ndim)]
    return torch.stack(steps, dim=1) / determinant(rows)[:, None]


class _Denoiser(nn.Module):
    """A U-Net from the velocity before and after a step to the change of the velocity."""

    def __init__(self, ndim: int, outputs: int, channels: Sequence[int]) -> None:
        super().__init__()
        # A norm would make large what is left of the step near the end.
        self.body = UNet(ndim, ndim + outputs, outputs, channels, norm=NO_NORM)

    def forward(self, output: Tensor, step: Tensor) -> Tensor:
        """Map a velocity (B, outputs, *shape) and a step of its first d channels to the next velocity."""
        result: Tensor = output + self.body(torch.cat([step, output], dim=1))
        return result


class VRNet(RegistrationNetwork):
    """Build alternating steps of the similarity, in closed form, and of a learned regularizer.

    (VR-Net, Jia et al. 2021, arXiv:2105.12227.) With an auxiliary variable v the minimum over u of
    |moving(x + u) - fixed|^2 + R(u) becomes, in turn, that over v of the similarity, linear in v, and
    penalty |v - u|^2 (`intensity_step`), and that over u of penalty |v - u|^2 + R(u), for which a residual
    convolutional network stands: R is what it has learned. Unlike theirs the unknown is any parametrization's
    coefficients at half the resolution, the similarity is squared, and the network, a U-Net, gives a step
    from u, and not from v, so that it starts at the identity.

    Args:
        ndim: As in `Network`.
        inputs: As in `Network`.
        outputs: As in `Network`.
        channels: Widths of the regularizer's levels, finest first.
        steps: Pairs of steps, each with its own penalty and regularizer.
    """

    def __init__(
        self, ndim: int, inputs: int, outputs: int, channels: Sequence[int] = (8, 16, 16, 16), steps: int = 3
    ) -> None:
        super().__init__()
        self.outputs = outputs
        self.denoisers = nn.ModuleList(_Denoiser(ndim, outputs, channels) for _ in range(steps))
        self.log_penalty = nn.Parameter(torch.full((steps,), -3.0))

    def forward(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """Map two images (B, inputs, *shape) to (B, outputs, *half)."""
        # Slopes need two voxels along each axis.
        half = [max(n, 2) for n in half_shape(fixed.shape[2:])]
        target, image = (F.interpolate(x.float(), size=half, mode="area") for x in (fixed, moving))
        output = target.new_zeros(len(target), self.outputs, *half)
        for log_penalty, denoiser in zip(self.log_penalty, self.denoisers, strict=True):
            moved = self.warp_by_output(image, output, half)
            step = intensity_step(target, moved, log_penalty.exp()) / VELOCITY_SCALE
            output = denoiser(output, step)
        return F.interpolate(output, size=half_shape(fixed.shape[2:]), mode="area")


vrnet = Network(
    VRNet,
    "Unrolled optimization with a learned regularizer (VR-Net). For few subjects: little is left to learn.",
)
