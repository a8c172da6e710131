"""Bias correction and intensity normalization of one image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from atlasmith import __version__
from atlasmith.config import Config
from atlasmith.core.errors import AtlasmithError, look_up
from atlasmith.core.grid import Array, Grid
from atlasmith.core.intensity import apply_mask, normalize
from atlasmith.io.files import nifti_files, write_json
from atlasmith.io.images import read_image, read_mask, write_image
from atlasmith.io.tables import read_cohort
from atlasmith.preprocess.n4 import correct_bias


def preprocess(
    data: Array,
    grid: Grid,
    n4: bool = False,
    window: Sequence[float] | None = None,
    mask: Array | None = None,
) -> Array:
    """Correct an image's bias field if asked, and scale its intensities to [0, 1].

    Args:
        data: Intensities (X, Y, Z) on `grid`.
        grid: The image's grid; N4 needs its voxel sizes.
        n4: Correct the bias field first.
        window: Intensities that become 0 and 1, such as (-160, 240) Hounsfield units for soft tissue in CT.
            None takes them from the image: see `atlasmith.core.intensity.normalize`.
        mask: Boolean (X, Y, Z); what lies outside becomes background.

    Returns:
        float32 intensities (X, Y, Z) in [0, 1].

    Example:
        >>> import numpy as np
        >>> grid = Grid((4, 4, 1), np.eye(4))
        >>> float(preprocess(np.arange(16.0).reshape(4, 4, 1), grid, window=(0, 30)).max())
        0.5
    """
    if mask is not None:
        data = apply_mask(data, mask)
    return normalize(correct_bias(data, grid) if n4 else data, window)


def preprocess_subject(config: Config, subject_id: str) -> None:
    """Write a subject's preprocessed image, in its native space, with a sidecar that says what was done.

    Args:
        config: The run's config; `preprocess` decides.
        subject_id: Participant id without `sub-`.

    Raises:
        AtlasmithError: For an unknown subject, or an image that has no contrast once it is normalized.
    """
    layout, settings = config.layout, config.preprocess
    subject = look_up({s.id: s for s in read_cohort(layout.cohort)}, subject_id, "subject")
    image, mask = read_image(subject.image), None
    sources = [str(subject.image)]
    if settings.masks is not None:
        (path,) = nifti_files(config.cohort.bids / settings.masks, subject_id, "mask")
        sources.append(str(path))
        mask = read_mask(path).data
    data = preprocess(image.data, image.grid, settings.n4, settings.window, mask)
    check_contrast(subject.image, data)
    write_image(layout.preprocessed(subject_id), data, image.grid, like=subject.image)
    write_json(
        layout.preprocessed_sidecar(subject_id),
        {
            "Description": "Intensities in the scan's own space, normalized to [0, 1]",
            "Sources": sources,
            "Masked": mask is not None,
            "BiasCorrection": "N4" if settings.n4 else "none",
            "Normalization": list(settings.window) if settings.window else "percentiles",
            "GeneratedBy": f"atlasmith {__version__}",
        },
    )


def check_contrast(path: Path, data: Array) -> None:
    """Raise `AtlasmithError` where normalized intensities are constant."""
    if float(data.max()) <= float(data.min()):
        raise AtlasmithError(
            f"{path}: the image has no contrast once it is normalized. Look at its intensities; set "
            "preprocess.window to those that should become 0 and 1, or leave the subject out."
        )
