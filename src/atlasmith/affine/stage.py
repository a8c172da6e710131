"""Build the affine reference of a cohort, and align one subject to it."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

from atlasmith.affine.engines import ENGINES
from atlasmith.affine.reference import choose, groupwise_reference
from atlasmith.affine.search import one_thread, register_affine
from atlasmith.affine.working_image import WorkingImage, resample
from atlasmith.config import Config
from atlasmith.core.errors import AtlasmithError, look_up
from atlasmith.core.grid import Grid
from atlasmith.io.files import read_json, require
from atlasmith.io.images import Image, read_antialiased, read_image, write_image
from atlasmith.io.layout import Layout
from atlasmith.io.tables import Subject, read_cohort
from atlasmith.io.transforms import write_affine


def build_reference(config: Config) -> None:
    """Write the groupwise affine reference on the template's grid, `Layout.affine_reference`.

    All chosen images are kept in memory. See `groupwise_reference`.

    Args:
        config: The run's config; `affine` decides.

    Raises:
        AtlasmithError: Without a cohort table, or when an image has other dimensions than the grid.
    """
    layout = config.layout
    grid = Grid.from_dict(read_json(layout.grid))
    subjects = {subject.id: subject for subject in read_cohort(layout.cohort) if subject.in_template}
    chosen = [subjects[name] for name in choose([*subjects], config.affine.reference_subjects)]
    threads = _available_cores()
    engine = look_up(ENGINES, config.affine.engine, "affine engine")
    with ThreadPoolExecutor(threads) as pool:
        images = list(pool.map(lambda subject: _read_preprocessed(layout, subject, grid), chosen))
    mean = groupwise_reference(images, grid, engine, config.affine.iterations, threads)
    write_image(layout.affine_reference, mean, grid)


def align_subject(config: Config, subject_id: str) -> None:
    """Register a subject's image to the affine reference, first rigidly, then affinely.

    Writes `Layout.affine` (pull-back from the template's world to the subject's, RAS mm) and
    `Layout.affine_image`, the image on the template's grid, interpolated once, 0 outside its field of view.

    Args:
        config: The run's config; `affine` decides.
        subject_id: Participant id without `sub-`.

    Raises:
        AtlasmithError: For an unknown subject, a missing reference, or an image that has other dimensions
            than the grid.
    """
    layout = config.layout
    subject = look_up({s.id: s for s in read_cohort(layout.cohort)}, subject_id, "subject")
    require(layout.affine_reference, "affine-reference")
    grid = Grid.from_dict(read_json(layout.grid))
    spacing = min(grid.tensor_spacing)
    engine = look_up(ENGINES, config.affine.engine, "affine engine")
    with one_thread():
        image = _read_preprocessed(layout, subject, grid)
        fixed = WorkingImage.from_image(Image(read_image(layout.affine_reference).data, grid), spacing)
        matrix = register_affine(fixed, WorkingImage.from_image(image, spacing), engine)
        moved = resample(image, matrix, grid, fill=0)
    write_affine(layout.affine(subject_id), matrix)
    write_image(layout.affine_image(subject_id), moved, grid)


def _read_preprocessed(layout: Layout, subject: Subject, grid: Grid) -> Image:
    """Read a preprocessed image, antialiased for `grid`; raise where it has other dimensions."""
    image = read_antialiased(layout.preprocessed(subject.id), min(grid.tensor_spacing))
    if image.grid.ndim != grid.ndim:
        raise AtlasmithError(
            f"{subject.image}: {image.grid.shape} voxels are {image.grid.ndim}-D, but the template's grid is "
            f"{grid.ndim}-D, {grid.shape}. Remove the image from the cohort, or correct template.shape."
        )
    return image


def _available_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
