"""What the benchmarks share to compare with other tools."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from atlasmith.core.fields import per_channel
from atlasmith.core.grid import Array, Grid
from atlasmith.core.intensity import antialias, normalize
from atlasmith.core.labels import count_overlap, dice, label_index
from atlasmith.core.world import resample, resample_labels
from atlasmith.io.images import Image, read_image, read_labels
from atlasmith.io.transforms import to_sitk

# Settings of greedy: an affine by NCC over 5 voxels along each axis, from the images' centers.
GREEDY = "-d 3 -V 0 -threads 2 -i fixed moving -m NCC 2x2x2"
GREEDY_WARP = f"{GREEDY} -it matrix -n 100x50x20 -o field"
GREEDY_AFFINE = f"{GREEDY} -a -dof 12 -ia-image-centers -n 40x20 -o matrix"


@cache
def normalized(path: Path, spacing: float | None = None) -> Image:
    """Read an image normalized as ours are, so that all tools get the same input.

    Args:
        path: The image file.
        spacing: Voxel size, mm; None for that of the file.
    """
    raw = read_image(path)
    image = Image(antialias(normalize(raw.data), raw.grid, spacing or 0), raw.grid)
    if spacing is None:
        return image
    grid = image.grid.resampled(spacing)
    moved = resample(torch.from_numpy(image.grid.squeeze(image.data))[None, None], image.grid, [], grid)
    return Image(grid.unsqueeze(moved[0, 0].numpy()), grid)


@cache
def labels_of(path: Path, spacing: float | None = None) -> Image:
    """Read labels, resampled as the images of `normalized`."""
    labels = read_labels(path)
    if spacing is None:
        return labels
    grid = labels.grid.resampled(spacing)
    return Image(grid.unsqueeze(resample_labels(labels.data, labels.grid, [], grid).numpy()), grid)


def mean_dice(found: Array, truth: Array, values: Array) -> float:
    """Compute Dice of two label maps on one grid, the mean over the labels `values` that either has."""
    true, other = (label_index(labels, values).ravel() for labels in (truth, found))
    return float(np.nanmean(dice(count_overlap(true, other, len(values)))))


def load_greedy() -> Callable[[Any, Any], Any]:
    """Load picsl-greedy, which registers a fixed and a moving image of SimpleITK.

    Returns:
        From the images to the tool, whose cache has the `matrix` and the `field`.
    """
    from picsl_greedy import Greedy3D

    def register(fixed: Any, moving: Any) -> Any:
        tool = Greedy3D()
        tool.execute(GREEDY_AFFINE, fixed=fixed, moving=moving, matrix=None)
        tool.execute(GREEDY_WARP, field=None)
        return tool

    return register


def ants_image(image: Image) -> Any:
    """Convert an image to one of antspyx, in 2-D or 3-D."""
    import ants

    grid, ndim = image.grid, image.grid.ndim
    frame = to_sitk(image.data.astype(np.float32), grid)
    return ants.from_numpy(
        np.ascontiguousarray(grid.squeeze(image.data.astype(np.float32))),
        origin=list(frame.GetOrigin()[:ndim]),
        spacing=list(frame.GetSpacing()[:ndim]),
        direction=np.array(frame.GetDirection()).reshape(3, 3)[:ndim, :ndim],
    )


def remove_files(registration: dict[str, Any]) -> None:
    """Delete the transforms that a registration by antspyx leaves in the temporary folder."""
    for path in {*registration["fwdtransforms"], *registration["invtransforms"]}:
        Path(path).unlink(missing_ok=True)


# Registers aligned images: from a fixed and a moving one (*shape) on a grid to the displacement (d, *shape),
# in voxels.
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


ALIGNED: dict[str, Peer] = {
    "greedy": by_greedy,
    "ANTs SyN": by_syn,
    "convexAdam package": by_convex_adam,
}
