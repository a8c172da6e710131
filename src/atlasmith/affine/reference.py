"""The affine reference: the mean of subjects that were registered to their own mean, favouring none."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import numpy as np
from scipy.linalg import expm, logm
from tqdm import tqdm

from atlasmith.affine.align import check_dimension, one_thread, refined, rigid
from atlasmith.affine.engines import ENGINES
from atlasmith.affine.scan import Scan, resample, shift, to_world
from atlasmith.config import Config
from atlasmith.core.errors import look_up
from atlasmith.core.grid import Array, Grid
from atlasmith.io.files import read_json
from atlasmith.io.images import Image, write_image
from atlasmith.io.tables import Subject, read_cohort
from atlasmith.preprocess.n4 import read_preprocessed

T = TypeVar("T")


def choose(subjects: Sequence[Subject], count: int) -> list[Subject]:
    """At most `count` subjects by a hash of their ids, in the order of the ids: other rows, or another order
    of them, change the choice as little as can be.
    """
    by_hash = sorted(subjects, key=lambda subject: hashlib.sha256(subject.id.encode()).digest())
    return sorted(by_hash[:count], key=lambda subject: subject.id)


def centered(matrices: Sequence[Array]) -> list[Array]:
    """Matrices (4, 4), each multiplied from the right by one common matrix such that their log-Euclidean mean
    (Arsigny et al. 2006, doi:10.1007/11866565_113; iterated, as matrices don't commute) is the identity.
    """
    matrices = list(matrices)
    for _ in range(20):
        mean = np.mean([np.real(logm(matrix)) for matrix in matrices], axis=0)
        matrices = [matrix @ expm(-mean) for matrix in matrices]
        if np.abs(mean).max() < 1e-12:
            break
    return matrices


def average(images: Iterable[Array]) -> Array:
    """The mean, at each voxel, of the images that see it (not NaN there); zero where none does."""
    total: Array | float = 0.0
    seen: Array | float = 0.0
    for image in images:
        inside = np.isfinite(image)
        total = total + np.where(inside, image, 0).astype(np.float64)
        seen = seen + inside
    return np.asarray(total / np.maximum(seen, 1), dtype=np.float32)


def build_reference(config: Config) -> None:
    """Write the unbiased groupwise affine reference to `Layout.affine_reference`, on the template's grid.

    Subjects are first superposed by their centers of mass, then registered to their mean `affine.iterations`
    times, rigidly in the first round. After each round one common affine makes the mean transform, about the
    centers of mass, the identity, so that neither pose nor size drifts to that of any subject. Each image is
    interpolated once. The result depends neither on the order of the subjects nor on the number of threads.
    All chosen images are kept in memory. Raises `AtlasmithError` without a cohort table.
    """
    layout = config.layout
    grid = Grid.from_dict(read_json(layout.grid))
    spacing = min(grid.tensor_spacing)
    builders = [subject for subject in read_cohort(layout.cohort) if subject.in_template]
    subjects = choose(builders, config.affine.reference_subjects)
    rounds = config.affine.iterations
    engine = look_up(ENGINES, config.affine.engine, "affine engine")

    def load(subject: Subject) -> tuple[Image, Scan]:
        image = read_preprocessed(subject.image, spacing, config.affine.n4)
        check_dimension(subject, image, grid)
        return image, Scan.of(image, spacing)

    with (
        one_thread(),
        ThreadPoolExecutor(_cores()) as pool,
        tqdm(total=2 * len(subjects) * (rounds + 1), desc="reference", disable=None) as bar,
    ):

        def each(function: Callable[..., T], *items: Iterable[Any]) -> Iterator[T]:
            """The results in the order of the items."""
            for result in pool.map(function, *items):
                bar.update()
                yield result

        loaded = list(each(load, subjects))
        images, scans = [image for image, _ in loaded], [scan for _, scan in loaded]
        # The centers of mass meet where the objects' bounding boxes are in the middle of the grid.
        blank = Scan.of(Image(np.zeros(grid.shape, dtype=np.float32), grid), spacing)
        center = blank.middle + np.median([scan.mass - scan.box for scan in scans], axis=0)

        def mean_of(deviations: Sequence[Array]) -> tuple[Image, list[Array]]:
            """The mean image, and the subjects' pull-backs in plain coordinates."""
            plain = [
                shift(scan.mass) @ deviation @ shift(-center)
                for scan, deviation in zip(scans, deviations, strict=True)
            ]
            world = [to_world(matrix, grid, scan.grid) for matrix, scan in zip(plain, scans, strict=True)]
            moved = each(lambda image, matrix: resample(image, matrix, grid), images, world)
            return Image(average(moved), grid), plain

        mean, plain = mean_of([np.eye(4)] * len(scans))
        for index in range(rounds):
            fixed = Scan.of(mean, spacing)
            register = partial(refined, kind="affine") if index else rigid
            found = each(partial(register, fixed, engine=engine), scans, [[start] for start in plain])
            mean, plain = mean_of(
                centered(
                    [
                        shift(-scan.mass) @ matrix @ shift(center)
                        for scan, matrix in zip(scans, found, strict=True)
                    ]
                )
            )
    write_image(layout.affine_reference, mean.data, grid)


def _cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
