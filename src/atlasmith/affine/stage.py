"""Build the affine reference of a cohort, and align one subject to it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from atlasmith.affine.engines import ENGINES
from atlasmith.affine.reference import average, choose, groupwise_reference
from atlasmith.affine.search import one_thread, register_affine
from atlasmith.affine.working_image import WorkingImage, resample
from atlasmith.config import Config
from atlasmith.core.errors import AtlasmithError, look_up
from atlasmith.core.grid import Grid
from atlasmith.io.channels import present_channels
from atlasmith.io.files import read_json, require
from atlasmith.io.images import Image, read_antialiased, read_image, write_image
from atlasmith.io.layout import Layout
from atlasmith.io.sidecars import is_skull_stripped, write_sidecar
from atlasmith.io.tables import Subject, read_cohort
from atlasmith.io.transforms import write_affine


def build_reference(config: Config) -> None:
    """Write the channels of the groupwise affine reference on the template's grid.

    Subjects are registered by the reference channel, those first that have all channels; the other channels
    are averaged with the same transforms. All images of the reference channel are kept in memory. See
    `groupwise_reference`.

    Args:
        config: The run's config; `affine` decides.

    Raises:
        AtlasmithError: Without a cohort table, when an image has other dimensions than the grid, or when no
            subject has a channel together with the reference channel.
    """
    layout = config.layout
    grid = Grid.from_dict(read_json(layout.grid))
    checked = read_cohort(layout.cohort, passed="preprocess")
    chosen = _choose_subjects(layout, checked, config.affine.reference_subjects)
    threads = _available_cores()
    engine = look_up(ENGINES, config.affine.engine, "affine engine")
    with ThreadPoolExecutor(threads) as pool:
        images = list(
            pool.map(lambda subject: _read_preprocessed(layout, subject, layout.suffix, grid), chosen)
        )
    mean, matrices = groupwise_reference(images, grid, engine, config.affine.iterations, threads)
    for index, channel in enumerate(layout.channels):
        having = [
            pair for pair in zip(chosen, matrices, strict=True) if present_channels(layout, pair[0])[index]
        ]
        if index > 0:
            mean = average(resample(_read_preprocessed(layout, s, channel, grid), m, grid) for s, m in having)
        path, sources = (
            layout.affine_reference_channel(channel),
            [layout.preprocessed(subject.id, channel) for subject, _ in having],
        )
        write_image(path, mean, grid)
        write_sidecar(
            layout,
            path,
            "Mean of affinely registered images",
            grid=grid,
            sources=sources,
            reference=layout.affine_reference,
            skull_stripped=is_skull_stripped(sources),
        )


def _choose_subjects(layout: Layout, cohort: Sequence[Subject], count: int) -> list[Subject]:
    """Choose at most `count` subjects that have the reference channel, those with all channels first."""
    present = {s.id: present_channels(layout, s) for s in cohort if s.in_template}
    complete = choose([name for name, channels in present.items() if all(channels)], count)
    others = [name for name, channels in present.items() if channels[0] and not all(channels)]
    ids = {*complete, *choose(others, count - len(complete))}
    for index, channel in enumerate(layout.channels):
        if not any(present[name][index] for name in ids):
            raise AtlasmithError(
                f"cohort.suffix: none of the {len(ids)} subjects that build the affine reference has both "
                f"{layout.suffix} and {channel}. Leave {channel} out, or raise affine.reference_subjects."
            )
    return sorted((subject for subject in cohort if subject.id in ids), key=lambda subject: subject.id)


def align_subject(config: Config, subject_id: str) -> None:
    """Register the first channel of a subject to the affine reference, first rigidly, then affinely.

    Writes `Layout.affine` (pull-back from the template's world to the subject's, RAS mm) and for each channel
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
    present = zip(layout.channels, present_channels(layout, subject), strict=True)
    channels = [channel for channel, there in present if there]
    reference = require(layout.affine_reference_channel(channels[0]), "affine-reference")
    grid = Grid.from_dict(read_json(layout.grid))
    spacing = min(grid.tensor_spacing)
    engine = look_up(ENGINES, config.affine.engine, "affine engine")
    with one_thread():
        images = [_read_preprocessed(layout, subject, channel, grid) for channel in channels]
        fixed = WorkingImage.from_image(Image(read_image(reference).data, grid), spacing)
        matrix = register_affine(fixed, WorkingImage.from_image(images[0], spacing), engine)
        moved = [resample(image, matrix, grid, fill=0) for image in images]
    write_affine(layout.affine(subject_id), matrix)
    for channel, data in zip(channels, moved, strict=True):
        source = layout.preprocessed(subject_id, channel)
        write_image(layout.affine_image(subject_id, channel), data, grid)
        write_sidecar(
            layout,
            layout.affine_image(subject_id, channel),
            "Normalized intensities, affinely registered to the template",
            grid=grid,
            sources=[source, layout.affine(subject_id)],
            reference=layout.template_image,
            skull_stripped=is_skull_stripped([source]),
        )


def _read_preprocessed(layout: Layout, subject: Subject, channel: str, grid: Grid) -> Image:
    """Read a preprocessed channel, antialiased for `grid`; raise where it has other dimensions."""
    image = read_antialiased(layout.preprocessed(subject.id, channel), min(grid.tensor_spacing))
    if image.grid.ndim != grid.ndim:
        raise AtlasmithError(
            f"{subject.image}: {image.grid.shape} voxels are {image.grid.ndim}-D, but the template's grid is "
            f"{grid.ndim}-D, {grid.shape}. Remove the image from the cohort, or correct template.shape."
        )
    return image


def _available_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
