"""Subpopulations of a cohort, found by clustering the affinely aligned images: a mixture of templates.

A subject's subpopulation is one more covariate, `SUBPOPULATION`, of the template: the template of each
subpopulation is a deformation of the common one. Sabuncu et al. 2009 (doi:10.1109/TMI.2009.2017942) estimate
subpopulations and templates together; here the subpopulations are found first.
"""

from __future__ import annotations

from collections.abc import Iterable
from string import ascii_uppercase

import numpy as np
import torch
from scipy.cluster.vq import kmeans, vq
from torch.nn.functional import avg_pool2d, avg_pool3d

from atlasmith.config import Config
from atlasmith.core.errors import AtlasmithError
from atlasmith.core.grid import Array, Grid
from atlasmith.core.progress import track
from atlasmith.io.files import read_json
from atlasmith.io.tables import (
    SUBPOPULATION,
    Subject,
    positions_by_participant,
    read_cohort,
    scan_columns,
    write_tsv,
)
from atlasmith.networks import Groupwise
from atlasmith.training.dataset import AlignedImages

BLOCKS = 24  # along the longest axis, over which images are averaged before they are compared
STARTS = 20  # of k-means


def find_subpopulations(config: Config) -> None:
    """Write each subject's subpopulation, A the largest, B the next.

    All scans of a participant are of one, by the mean of their images.

    Args:
        config: The run's config; `template.subpopulations` is their number.

    Raises:
        AtlasmithError: When that is 1.
    """
    layout = config.layout
    if config.template.subpopulations == 1:
        raise AtlasmithError("template.subpopulations is 1: there is a single population.")
    subjects = read_cohort(layout.cohort, passed="affine")
    grid = Grid.from_dict(read_json(layout.grid))
    images = AlignedImages(layout, subjects, grid)
    indices = track(range(len(subjects)), "subpopulations")
    means, fractions = _block_means(images, indices)
    participants = positions_by_participant([subject.id for subject in subjects])
    found = cluster(
        np.stack([_mean_with_data(means[scans], fractions[scans]) for scans in participants]),
        np.stack([fractions[scans].max(axis=0) for scans in participants]),
        config.template.subpopulations,
        config.seed,
    )
    sizes = [
        f"{count} subjects in {ascii_uppercase[index]}" for index, count in enumerate(np.bincount(found))
    ]
    print(f"subpopulations: {', '.join(sizes)}")
    rows = [
        {**scan_columns(subjects[scan].id), SUBPOPULATION: ascii_uppercase[index]}
        for scans, index in zip(participants, found, strict=True)
        for scan in scans
    ]
    write_tsv(layout.subpopulations, rows, list(rows[0]))


def _block_means(images: AlignedImages, indices: Iterable[int]) -> tuple[Array, Array]:
    """Average images over coarse blocks (N, blocks), and the fraction of each block with data."""
    grid = images.grid
    pool = {2: avg_pool2d, 3: avg_pool3d}[grid.ndim]
    longest = -(-max(grid.tensor_shape) // BLOCKS)
    side = [min(longest, n) for n in grid.tensor_shape]
    means, fractions = [], []
    for index in indices:
        image, mask = images.batch([index])
        fraction = pool(mask, side, ceil_mode=True)
        mean = pool(image * mask, side, ceil_mode=True) / fraction.clamp(min=1e-6)
        means.append(mean.flatten().numpy())
        fractions.append(fraction.flatten().numpy())
    return np.stack(means), np.stack(fractions)


def _mean_with_data(means: Array, fractions: Array) -> Array:
    """Average rows (N, blocks), where they have data."""
    return np.average(means, axis=0, weights=np.maximum(fractions, 1e-6))


def cluster(values: Array, fractions: Array, count: int, seed: int) -> Array:
    """Cluster rows by k-means from many starts.

    Where a row has too little data, it takes the mean of the others, which favors no cluster.

    Args:
        values: Rows (N, M).
        fractions: Fraction of data (N, M) behind each value; below one half the value isn't used.
        count: Number of clusters; where rows are equal, fewer are found.
        seed: Of the starts.

    Returns:
        The cluster (N,) of each row, 0 the largest.

    Example:
        >>> cluster(np.array([[0.0], [5.0], [5.1]]), np.ones((3, 1)), count=2, seed=0)
        array([1, 0, 0])
    """
    mean = np.average(values, axis=0, weights=np.maximum(fractions, 1e-6))
    imputed = np.where(fractions > 0.5, values, mean).astype(np.float64)
    centers, _ = kmeans(imputed, count, iter=STARTS, rng=np.random.default_rng(seed))
    found, _ = vq(imputed, centers)
    order = np.argsort(-np.bincount(found, minlength=len(centers)), kind="stable")
    return np.argsort(order)[found]


@torch.inference_mode()
def nearest_subpopulation(config: Config, subject: Subject) -> str:
    """Find the subpopulation whose template is nearest to an affinely aligned image.

    Args:
        config: The config of a run with a trained template.
        subject: An aligned subject, who needn't be of the cohort.

    Returns:
        Its name, such as `A`: the template at the subject's covariates has the least squared difference.
    """
    model = Groupwise.load(config.layout.template_weights)
    image, mask = AlignedImages(config.layout, [subject], model.grid).batch([0])

    def distance(subpopulation: str) -> float:
        code = model.code.encode({**subject.covariates, SUBPOPULATION: subpopulation})
        return float((mask * (model.template(code[None]) - image).square()).sum())

    return min(model.code.categorical[SUBPOPULATION], key=distance)
