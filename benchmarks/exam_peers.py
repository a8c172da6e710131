"""Other tools in the exam: they register to the same template, from the same affine alignment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from peers import remove_files
from torch import Tensor

from atlasmith.core.fields import invert, per_channel
from atlasmith.core.grid import Grid
from atlasmith.registration.template import TemplateRegistration

# From a fixed and a moving image (*shape) on a grid to the displacement (d, *shape), voxels.
Peer = Callable[[Tensor, Tensor, Grid], Tensor]


def by_greedy(fixed: Tensor, moving: Tensor, grid: Grid) -> Tensor:
    """Register by picsl-greedy: NCC over 5 voxels along each axis, the default smoothing."""
    import SimpleITK as sitk
    from picsl_greedy import Greedy2D, Greedy3D

    images = [sitk.GetImageFromArray(x.numpy().T) for x in (fixed, moving)]
    for image in images:
        image.SetSpacing(grid.tensor_spacing)
    tool = Greedy3D() if grid.ndim == 3 else Greedy2D()
    radius = "x".join("2" * grid.ndim)
    options = f"-d {grid.ndim} -V 0 -threads 1 -i fixed moving -m NCC {radius} -n 100x50x20 -o field"
    tool.execute(options, fixed=images[0], moving=images[1], field=None)
    field = torch.from_numpy(sitk.GetArrayFromImage(tool["field"]).T.copy()).float()
    return field / per_channel(grid.tensor_spacing, field[None])[0]


def by_syn(fixed: Tensor, moving: Tensor, grid: Grid) -> Tensor:
    """Register by SyN of antspyx with its defaults, without its affine registration."""
    import ants

    first, second = (ants.from_numpy(x.numpy(), spacing=list(grid.tensor_spacing)) for x in (fixed, moving))
    found = ants.registration(first, second, "SyNOnly", initial_transform="Identity")
    path = next(path for path in found["fwdtransforms"] if path.endswith(".nii.gz"))
    field = torch.from_numpy(np.moveaxis(ants.image_read(path).numpy(), -1, 0).copy()).float()
    remove_files(found)
    return field / per_channel(grid.tensor_spacing, field[None])[0]


def by_convex_adam(fixed: Tensor, moving: Tensor, grid: Grid) -> Tensor:
    """Register by the package convexAdam with its defaults; in 3-D only."""
    from convexAdam.convex_adam_MIND import convex_adam_pt

    if grid.ndim == 2:
        raise SystemExit("convexAdam registers in 3-D only")
    found = convex_adam_pt(fixed, moving, dtype=torch.float32, device=torch.device("cpu"))
    return torch.from_numpy(found).movedim(-1, 0).float()


PEERS: dict[str, Peer] = {
    "greedy": by_greedy,
    "ANTs SyN": by_syn,
    "convexAdam package": by_convex_adam,
}


class PeerRegistration(TemplateRegistration):
    """Register images to a trained template by another tool, which sees the first channel.

    Args:
        peer: A name in PEERS.
        *arguments: As of `TemplateRegistration`; without steps, the images stay as they are aligned.
    """

    def __init__(self, peer: str, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.peer = PEERS[peer]

    def _displacements(self, template: Tensor, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        grid = self.model.grid
        if not self.steps:
            zero = image.new_zeros(len(image), grid.ndim, *image.shape[2:])
            return zero, zero
        pairs = zip(template[:, 0], image[:, 0], strict=True)
        forward = torch.stack([self.peer(fixed.contiguous(), moving, grid) for fixed, moving in pairs])
        return forward, invert(forward, iterations=40)
