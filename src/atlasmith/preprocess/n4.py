"""From a file to the image that is registered and averaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from atlasmith.core.grid import Array, Grid
from atlasmith.core.intensity import antialias, has_background, normalize
from atlasmith.io.images import Image, read_image

N4_SPACING = 4.0  # mm; the bias field is smooth, so a coarse grid is enough to find it


def read_preprocessed(path: str | Path, spacing: float, n4: bool) -> Image:
    """Read an image, with `n4` correct its bias, normalize it to [0, 1], and smooth it for `spacing` mm."""
    image = read_image(path)
    data = correct_bias(image.data, image.grid) if n4 else image.data
    return Image(antialias(normalize(data), image.grid, spacing), image.grid)


def correct_bias(data: Array, grid: Grid) -> Array:
    """Divide (X, Y, Z) by its bias field, found by N4 (Tustison 2010, doi:10.1109/TMI.2010.2046908)."""
    values = grid.squeeze(data).astype(np.float32)
    # The field is multiplicative and N4 takes logarithms: only positive values take part.
    mask = values > max(float(values.min()), 0) if has_background(data) else values > 0
    if not mask.any():
        return data
    image = sitk.GetImageFromArray(np.ascontiguousarray(values.T))
    image.SetSpacing(grid.tensor_spacing)
    inside = sitk.GetImageFromArray(np.ascontiguousarray(mask.T.astype(np.uint8)))
    inside.CopyInformation(image)
    # At least 16 voxels an axis remain.
    factors = [
        max(1, min(int(N4_SPACING / size), length // 16))
        for size, length in zip(grid.tensor_spacing, grid.tensor_shape, strict=True)
    ]
    n4 = sitk.N4BiasFieldCorrectionImageFilter()
    n4.Execute(sitk.Shrink(image, factors), sitk.Shrink(inside, factors))
    field = np.exp(sitk.GetArrayFromImage(n4.GetLogBiasFieldAsImage(image)).T)
    return grid.unsqueeze(np.where(mask, values / field, values).astype(np.float32))
