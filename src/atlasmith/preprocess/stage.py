"""Filling of excluded regions, bias correction and intensity normalization of one scan."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from atlasmith.config import Config
from atlasmith.core.errors import AtlasmithError, look_up
from atlasmith.core.grid import Array, Grid
from atlasmith.core.inpainting import fill
from atlasmith.core.intensity import antialias, apply_mask, normalize
from atlasmith.io.channels import ACQUIRED, resample_onto
from atlasmith.io.images import Image, read_image, read_mask, write_image
from atlasmith.io.sidecars import source_is_skull_stripped, write_sidecar
from atlasmith.io.tables import Subject, read_cohort
from atlasmith.preprocess.n4 import correct_bias

# Shares of a voxel, of a mask on another grid: a voxel is inside by its larger part, and excluded by any.
MASKED, TOUCHED = 0.5, 0.05


def preprocess(
    data: Array,
    grid: Grid,
    n4: bool = False,
    window: Sequence[float] | None = None,
    mask: Array | None = None,
    exclude: Array | None = None,
) -> Array:
    """Correct an image's bias field if asked, and scale its intensities to [0, 1].

    Args:
        data: Intensities (X, Y, Z) on `grid`.
        grid: The image's grid; N4 needs its voxel sizes.
        n4: Correct the bias field first.
        window: Intensities that become 0 and 1, such as (-160, 240) Hounsfield units for soft tissue in CT.
            None takes them from the image: see `atlasmith.core.intensity.normalize`.
        mask: Boolean (X, Y, Z); what lies outside becomes background.
        exclude: Boolean (X, Y, Z); what lies inside is filled from its surroundings first, and has no part in
            the scale.

    Returns:
        float32 intensities (X, Y, Z) in [0, 1].

    Example:
        >>> import numpy as np
        >>> grid = Grid((4, 4, 1), np.eye(4))
        >>> float(preprocess(np.arange(16.0).reshape(4, 4, 1), grid, window=(0, 30)).max())
        0.5
    """
    if exclude is not None:
        data = fill(data, exclude, mask, grid.spacing)
    if mask is not None:
        data = apply_mask(data, mask)
    return normalize(correct_bias(data, grid) if n4 else data, window, exclude)


def preprocess_subject(config: Config, subject_id: str) -> None:
    """Write a subject's preprocessed channels, in its native space, with sidecars that say what was done.

    The native space is that of the first channel, onto whose grid the others are resampled. Where the config
    excludes regions, also write `Layout.valid_mask`.

    Args:
        config: The run's config; `preprocess` decides.
        subject_id: Participant id without `sub-`.

    Raises:
        AtlasmithError: For an unknown subject, or an image that has no contrast once it is normalized.
    """
    layout = config.layout
    subject = look_up({s.id: s for s in read_cohort(layout.cohort)}, subject_id, "subject")
    mask, exclude = (None if path is None else read_mask(path) for path in (subject.mask, subject.exclude))
    images = {}
    for channel, path in (subject.channels or {layout.suffix: subject.image}).items():
        image = read_image(path)
        data = preprocess(
            image.data,
            image.grid,
            config.preprocess.n4,
            config.preprocess.window_of(channel),
            None if mask is None else _on_grid(mask, image.grid, MASKED),
            None if exclude is None else _on_grid(exclude, image.grid, TOUCHED),
        )
        check_contrast(path, data)
        images[channel] = Image(data, image.grid)
    grid = next(iter(images.values())).grid
    for channel, image in images.items():
        write_image(layout.preprocessed(subject_id, channel), _resample(image, grid), grid, subject.image)
        _describe(config, subject, channel, image.grid, grid)
    if config.cohort.exclude is not None:
        valid = np.ones(grid.shape, dtype=bool) if exclude is None else ~exclude.data
        write_image(layout.valid_mask(subject_id), valid.astype(np.uint8), grid, subject.image)
        write_sidecar(
            layout,
            layout.valid_mask(subject_id),
            "1 where the scan may be learned from, 0 where cohort.exclude says that it may not",
            grid=grid,
            sources=[] if subject.exclude is None else [subject.exclude],
            reference=subject.image,
            Type="ROI",
        )


def _on_grid(mask: Image, grid: Grid, threshold: float) -> Array:
    """Resample a mask onto another grid: true where more than a share of a voxel lies in it."""
    if mask.grid.same_as(grid):
        return mask.data
    weight = antialias(mask.data.astype(np.float32), mask.grid, max(grid.tensor_spacing))
    return _resample(Image(weight, mask.grid), grid) > threshold


def _resample(image: Image, grid: Grid) -> Array:
    """Resample an image (X, Y, Z) onto another grid, 0 outside its field of view."""
    if image.grid.same_as(grid):
        return image.data
    data = antialias(image.data, image.grid, min(grid.tensor_spacing))
    return resample_onto(Image(data, image.grid), grid)


def _describe(config: Config, subject: Subject, channel: str, acquired: Grid, grid: Grid) -> None:
    """Write the sidecar of a channel, which was acquired on one grid and written on another."""
    layout, window = config.layout, config.preprocess.window_of(channel)
    source = subject.channels.get(channel, subject.image)
    stated = source_is_skull_stripped(layout, source, subject.mask is not None)
    write_sidecar(
        layout,
        layout.preprocessed(subject.id, channel),
        "Intensities in the scan's own space, normalized to [0, 1]",
        grid=grid,
        sources=[path for path in (source, subject.mask, subject.exclude) if path is not None],
        reference=subject.image,
        skull_stripped=stated,
        Masked=subject.mask is not None,
        Excluded=subject.exclude is not None,
        BiasCorrection="N4" if config.preprocess.n4 else "none",
        Normalization=window or "percentiles",
        **({} if acquired.same_as(grid) else {ACQUIRED: acquired.to_dict()}),
    )


def check_contrast(path: Path, data: Array) -> None:
    """Raise `AtlasmithError` where normalized intensities are constant."""
    if float(data.max()) <= float(data.min()):
        raise AtlasmithError(
            f"{path}: the image has no contrast once it is normalized. Look at its intensities; set "
            "preprocess.window to those that should become 0 and 1, or leave the subject out."
        )
