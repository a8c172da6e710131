"""Regressors of patches at two scales, applied to every voxel."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atlasmith.networks.blocks import head, plain_block
from atlasmith.networks.registration.base import Network

FINE, COARSE = (1, 2, 3), (1, 3, 9)  # dilations of the convolutions, in half-resolution voxels


class RegNet(nn.Module):
    """Build a regressor of a patch of 29 voxels along each axis and of one of 54 voxels at half resolution.

    (Sokooti et al. 2017, doi:10.1007/978-3-319-66182-7_27.) The two are joined before layers that see a
    single voxel. Theirs is applied to patches, with batch norms and pooling; this one to the image at once,
    with dilated convolutions in the place of pooling and without norms, so that the output at a voxel depends
    on its patches alone.

    Args:
        ndim: As in `Network`.
        inputs: As in `Network`.
        outputs: As in `Network`.
        channels: Width of both streams, then those of the joint layers.
    """

    def __init__(self, ndim: int, inputs: int, outputs: int, channels: Sequence[int] = (16, 32, 32)) -> None:
        super().__init__()
        width, both = channels[0], 2 * inputs
        fine = [
            plain_block(ndim, both, width, 5, 2),
            *(plain_block(ndim, width, width, dilation=n) for n in FINE),
        ]
        coarse = [
            plain_block(ndim, before, width, dilation=n)
            for before, n in zip([both, width, width], COARSE, strict=True)
        ]
        self.fine, self.coarse = nn.Sequential(*fine), nn.Sequential(*coarse)
        self.joint = nn.Sequential(
            *(plain_block(ndim, a, b, 1) for a, b in itertools.pairwise([2 * width, *channels[1:]]))
        )
        self.head = head(ndim, channels[-1], outputs, size=1)

    def forward(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """Map two images (B, inputs, *shape) to (B, outputs, *half)."""
        images = torch.cat([fixed, moving], dim=1)
        pool = {4: F.avg_pool2d, 5: F.avg_pool3d}[images.ndim]
        coarse = self.coarse(pool(images, 2, ceil_mode=True))
        result: Tensor = self.head(self.joint(torch.cat([self.fine(images), coarse], dim=1)))
        return result


regnet = Network(RegNet, "Regressors of patches at two scales (RegNet). For small displacements.")
