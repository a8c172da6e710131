"""What the benchmarks share to compare with other tools."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from atlasmith.core.intensity import antialias, normalize
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
