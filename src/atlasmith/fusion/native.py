"""From label probabilities on the fusion grid to labels on the subject's own grid."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from atlasmith.core.grid import Grid
from atlasmith.core.sampling import sample
from atlasmith.core.world import CPU, resampling_coordinates
from atlasmith.fusion.fuser import LabelProbability
from atlasmith.fusion.probabilities import most_probable_labels


def native_labels(
    probabilities: Iterable[LabelProbability], grid: Grid, native: Grid, device: torch.device = CPU
) -> tuple[Tensor, Tensor]:
    """Decide on the most probable label at each voxel of the subject's own grid.

    Probabilities on a coarser grid are interpolated linearly, label by label, before the decision.

    Args:
        probabilities: Of all labels, in rising order, on `grid`.
        grid: The fusion grid: a part of `native`, possibly coarser.
        native: The subject's own grid.
        device: Where the probabilities lie.

    Returns:
        Labels (X, Y, Z) int32 and their probabilities (X, Y, Z) float32 on `native`; outside `grid` the label
        is 0, with probability 1.
    """
    start = np.linalg.inv(native.affine) @ grid.affine[:, 3]
    box = tuple(slice(int(s), int(s) + n) for s, n in zip(np.rint(start[:3]), grid.shape, strict=True))
    if not native.cropped(box).same_as(grid):
        return _interpolated_labels(probabilities, grid, native, device)
    labels = torch.zeros(native.shape, dtype=torch.int32, device=device)
    confidence = torch.ones(native.shape, device=device)
    fused, best = most_probable_labels(probabilities, grid.tensor_shape, device)
    labels[box], confidence[box] = fused.view(grid.shape), best.view(grid.shape)
    return labels, confidence


def _interpolated_labels(
    probabilities: Iterable[LabelProbability], grid: Grid, native: Grid, device: torch.device
) -> tuple[Tensor, Tensor]:
    voxels = resampling_coordinates(grid, [], native, device)
    labels = torch.zeros(native.tensor_shape, dtype=torch.int32, device=device)
    confidence = torch.zeros(native.tensor_shape, device=device)
    labelled = torch.zeros(grid.tensor_shape, device=device)
    # The grids have the same axes, so that coordinates along an axis don't depend on the other axes.
    lines = [voxels[0, axis].movedim(axis, 0).flatten(1)[:, 0].cpu() for axis in range(grid.ndim)]
    for value, box, probability in probabilities:
        if value == 0:
            continue
        labelled[box] += probability
        # Linear interpolation carries a label less than one voxel beyond its box.
        window = tuple(
            slice(int(np.searchsorted(line, s.start - 1, "right")), int(np.searchsorted(line, s.stop)))
            for line, s in zip(lines, box, strict=True)
        )
        coarse = torch.zeros_like(labelled)
        coarse[box] = probability
        fine = _interpolated(coarse, voxels[:, :, *window])
        labels[window].masked_fill_(fine > confidence[window], value)
        confidence[window].clamp_(min=fine)
    background = 1 - _interpolated(labelled, voxels)  # also beyond the grid
    unlabelled = background >= confidence
    labels, confidence = labels.masked_fill(unlabelled, 0), torch.maximum(background, confidence)
    return labels.view(native.shape), confidence.view(native.shape)


def _interpolated(probability: Tensor, voxels: Tensor) -> Tensor:
    """`probability` (*in) at voxel coordinates (1, d, *out), zero outside."""
    return sample(probability[None, None], voxels)[0, 0]
