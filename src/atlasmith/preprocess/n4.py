"""Bias-field correction by N4 (Tustison et al. 2010, doi:10.1109/TMI.2010.2046908)."""

from __future__ import annotations

import operator

import numpy as np
import SimpleITK as sitk

from atlasmith.core.grid import Array, Grid
from atlasmith.core.intensity import find_background

VOXELS = 64  # along the longest axis: the bias field is smooth, so a coarse grid is enough to find it


def correct_bias(data: Array, grid: Grid) -> Array:
    """Divide an image by its bias field, found by N4.

    Args:
        data: Intensities (X, Y, Z) on `grid`.
        grid: The image's grid.

    Returns:
        float32 intensities (X, Y, Z); unchanged where no voxel is positive.
    """
    values = grid.squeeze(data).astype(np.float32)
    # The field is multiplicative and N4 takes logarithms: only positive values take part.
    background = find_background(data)
    mask = values > max(background[1] if background else 0.0, 0.0)
    if not mask.any():
        return data
    image = sitk.GetImageFromArray(np.ascontiguousarray(values.T))
    image.SetSpacing(grid.tensor_spacing)
    inside = sitk.GetImageFromArray(np.ascontiguousarray(mask.T.astype(np.uint8)))
    inside.CopyInformation(image)
    coarse = max(map(operator.mul, grid.tensor_spacing, grid.tensor_shape)) / VOXELS
    # At least 16 voxels an axis remain.
    factors = [
        max(1, min(int(coarse / size), length // 16))
        for size, length in zip(grid.tensor_spacing, grid.tensor_shape, strict=True)
    ]
    n4 = sitk.N4BiasFieldCorrectionImageFilter()
    n4.Execute(sitk.Shrink(image, factors), sitk.Shrink(inside, factors))
    field = np.exp(sitk.GetArrayFromImage(n4.GetLogBiasFieldAsImage(image)).T)
    return grid.unsqueeze(np.where(mask, values / field, values).astype(np.float32))
