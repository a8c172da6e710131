"""Fusing the atlases' labels on one target."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from atlasmith.config import Config
from atlasmith.core.grid import Array, Grid
from atlasmith.core.sampling import sample
from atlasmith.core.world import resample, resampling_coordinates
from atlasmith.fusion.autocontext import read_autocontext
from atlasmith.fusion.methods import Share, Votes, fuse, plurality
from atlasmith.fusion.propagated import read_stack
from atlasmith.fusion.quality import COLUMNS, found, predicted, tallied
from atlasmith.fusion.uncertainty import PARTS, Uncertainty, misfit
from atlasmith.fusion.votenet import Trust
from atlasmith.io.files import read_json, write_json
from atlasmith.io.images import read_grid, write_image
from atlasmith.io.tables import read_cohort, read_tsv, write_tsv


def fuse_subject(config: Config, subject_id: str) -> None:
    """Write, for each of the config's methods, labels and confidence on the target's grid, the volumes, and
    what all that is worth, where the atlases were assessed."""
    layout = config.layout
    subject = next(s for s in read_cohort(layout.cohort) if s.id == subject_id)
    names = {int(row["index"]): row["name"] for row in read_tsv(layout.labels)}
    stack = read_stack(layout, subject)
    native = read_grid(subject.image)
    trusted = cache(lambda: Trust(config))
    votes = Votes(
        stack.labels,
        stack.images,
        stack.target,
        cache(lambda: trusted()(stack)),
        lambda: trusted().correlation(stack),
        lambda: read_autocontext(config).verdict(stack, subject_id),
        config.fusion,
    )
    known = (
        read_json(layout.quality_model) if subject.role != "atlas" and layout.quality_model.exists() else None
    )
    unexplained = misfit(stack) if config.fusion.uncertainty else None
    for method in config.fusion.methods:
        sizes: dict[int, float] = {}
        said = tallied(fuse(method, votes), sizes)
        unsure = None if unexplained is None else Uncertainty(stack.labels)
        labels, confidence = on_native(unsure.passed(said) if unsure else said, stack.grid, native)
        write_image(layout.segmentation(subject_id, method), labels, native, like=subject.image)
        write_image(layout.confidence(subject_id, method), confidence, native, like=subject.image)
        expected = {value: size * stack.grid.voxel_volume for value, size in sizes.items()}
        rows = found(labels, confidence, expected, names, native.voxel_volume)
        about: dict[str, Any] = {"SpatialReference": str(subject.image), "FusionMethod": method}
        if unsure and unexplained is not None:
            parts = torch.from_numpy(unsure.maps(unexplained))[None]
            maps = resample(parts, stack.grid, [], native)[0].movedim(0, -1)
            path = layout.uncertainty(subject_id, method)
            write_image(path, native.unsqueeze(maps.numpy()), native, like=subject.image)
            about["Uncertainty"] = PARTS
        if known is not None and method in known["Methods"]:
            about |= predicted(rows, known["Methods"][method])
        write_tsv(layout.volumes(subject_id, method), rows, COLUMNS)
        write_json(layout.segmentation_sidecar(subject_id, method), about)


def on_native(said: Iterable[Share], grid: Grid, native: Grid) -> tuple[Array, Array]:
    """Decide by every label's share on `grid`: a part of `native`, coarser perhaps.

    Returns labels and confidence (X, Y, Z) on `native`; outside `grid` the label is 0, with confidence 1.
    Coarse votes are interpolated linearly, label by label, before the winner is found.
    """
    start = np.linalg.inv(native.affine) @ grid.affine[:, 3]
    box = tuple(slice(int(s), int(s) + n) for s, n in zip(np.rint(start[:3]), grid.shape, strict=True))
    if native.cropped(box).same_as(grid):
        winner = np.zeros(native.shape, dtype=np.int32)
        best = np.ones(native.shape, dtype=np.float32)
        fused, confidence = plurality(said, grid.tensor_shape)
        winner[box], best[box] = grid.unsqueeze(fused), grid.unsqueeze(confidence)
        return winner, best
    voxels = resampling_coordinates(grid, [], native)
    fused = np.zeros(native.tensor_shape, dtype=np.int32)
    confidence = np.zeros(native.tensor_shape, dtype=np.float32)
    labelled = np.zeros(grid.tensor_shape, dtype=np.float32)
    # The grids share their axes, so each axis has its own line of coordinates.
    lines = [voxels[0, axis].movedim(axis, 0).flatten(1)[:, 0].numpy() for axis in range(grid.ndim)]
    for value, box, share in said:
        if value == 0:
            continue
        labelled[box] += share
        # Linear interpolation carries a label less than one voxel beyond its box.
        window = tuple(
            slice(int(np.searchsorted(line, s.start - 1, "right")), int(np.searchsorted(line, s.stop)))
            for line, s in zip(lines, box, strict=True)
        )
        whole = np.zeros(grid.tensor_shape, dtype=np.float32)
        whole[box] = share
        upsampled = _interpolated(whole, voxels[:, :, *window])
        better = upsampled > confidence[window]
        fused[window][better] = value
        confidence[window][better] = upsampled[better]
    background = 1 - _interpolated(labelled, voxels)  # also beyond the grid
    unlabelled = background >= confidence
    fused[unlabelled], confidence[unlabelled] = 0, background[unlabelled]
    return native.unsqueeze(fused), native.unsqueeze(confidence)


def _interpolated(share: Array, voxels: Tensor) -> Array:
    """`share` (*in) at voxel coordinates (1, d, *out), zero outside."""
    values: Array = sample(torch.from_numpy(share)[None, None].float(), voxels)[0, 0].numpy()
    return values
