"""From label probabilities on the fusion grid to labels on the subject's own grid."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from atlasmith.core.grid import Array, Grid
from atlasmith.core.sampling import sample
from atlasmith.core.world import resampling_coordinates
from atlasmith.fusion.fuser import LabelProbability
from atlasmith.fusion.probabilities import most_probable_labels


def native_labels(probabilities: Iterable[LabelProbability], grid: Grid, native: Grid) -> tuple[Array, Array]:
    """Decide on the most probable label at each voxel of the subject's own grid.

    Probabilities on a coarser grid are interpolated linearly, label by label, before the decision.

    Args:
        probabilities: Of all labels, in rising order, on `grid`.
        grid: The fusion grid: a part of `native`, possibly coarser.
        native: The subject's own grid.

    Returns:
        Labels (X, Y, Z) int32 and their probabilities (X, Y, Z) float32 on `native`; outside `grid` the label
        is 0, with probability 1.
    """
    start = np.linalg.inv(native.affine) @ grid.affine[:, 3]
    box = tuple(slice(int(s), int(s) + n) for s, n in zip(np.rint(start[:3]), grid.shape, strict=True))
    if not native.cropped(box).same_as(grid):
        return _interpolated_labels(probabilities, grid, native)
    labels = np.zeros(native.shape, dtype=np.int32)
    confidence = np.ones(native.shape, dtype=np.float32)
    fused, best = most_probable_labels(probabilities, grid.tensor_shape)
    labels[box], confidence[box] = grid.unsqueeze(fused), grid.unsqueeze(best)
    return labels, confidence


def _interpolated_labels(
    probabilities: Iterable[LabelProbability], grid: Grid, native: Grid
) -> tuple[Array, Array]:
    voxels = resampling_coordinates(grid, [], native)
    labels = np.zeros(native.tensor_shape, dtype=np.int32)
    confidence = np.zeros(native.tensor_shape, dtype=np.float32)
    labelled = np.zeros(grid.tensor_shape, dtype=np.float32)
    # The grids have the same axes, so that coordinates along an axis don't depend on the other axes.
    lines = [voxels[0, axis].movedim(axis, 0).flatten(1)[:, 0].numpy() for axis in range(grid.ndim)]
    for value, box, probability in probabilities:
        if value == 0:
            continue
        labelled[box] += probability
        # Linear interpolation carries a label less than one voxel beyond its box.
        window = tuple(
            slice(int(np.searchsorted(line, s.start - 1, "right")), int(np.searchsorted(line, s.stop)))
            for line, s in zip(lines, box, strict=True)
        )
        coarse = np.zeros(grid.tensor_shape, dtype=np.float32)
        coarse[box] = probability
        fine = _interpolated(coarse, voxels[:, :, *window])
        better = fine > confidence[window]
        labels[window][better] = value
        confidence[window][better] = fine[better]
    background = 1 - _interpolated(labelled, voxels)  # also beyond the grid
    unlabelled = background >= confidence
    labels[unlabelled], confidence[unlabelled] = 0, background[unlabelled]
    return native.unsqueeze(labels), native.unsqueeze(confidence)


def _interpolated(probability: Array, voxels: Tensor) -> Array:
    """`probability` (*in) at voxel coordinates (1, d, *out), zero outside."""
    values: Array = sample(torch.from_numpy(probability)[None, None].float(), voxels)[0, 0].numpy()
    return values
