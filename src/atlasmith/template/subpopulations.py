"""Sub-subpopulations, told apart by the affinely aligned images: a mixture of templates.

Which of them a person belongs to is one more covariate, `SUBPOPULATION`, that the template depends on: each
subpopulation's template has covariate_transform from the common one. Sabuncu et al. 2009 (doi:10.1109/TMI.2009.2017942) tell
subpopulations apart while their templates are made, we do so before.
"""

from __future__ import annotations

from string import ascii_uppercase

import numpy as np
import torch
from scipy.cluster.vq import kmeans, vq
from torch.nn.functional import avg_pool2d, avg_pool3d
from tqdm import tqdm

from atlasmith.config import Config
from atlasmith.core.errors import AtlasmithError
from atlasmith.core.grid import Array, Grid
from atlasmith.io.files import read_json
from atlasmith.io.tables import SUBPOPULATION, Subject, read_cohort, write_tsv
from atlasmith.networks import Groupwise
from atlasmith.training.dataset import AlignedImages

CELLS = 24  # along the longest axis: people are compared by the means of so many
STARTS = 20  # of k-means


def find_subpopulations(config: Config) -> None:
    """Write each subject's subpopulation, A the largest, B the next. Raises `AtlasmithError` when the config
    tells none apart."""
    layout = config.layout
    if config.template.subpopulations == 1:
        raise AtlasmithError("template.subpopulations is 1: there is nothing to tell apart.")
    subjects = read_cohort(layout.cohort)
    grid = Grid.from_dict(read_json(layout.grid))
    images = AlignedImages(layout, subjects, grid)
    progress = tqdm(range(len(subjects)), desc="subpopulations", disable=None)
    which = clusters(*_cells(images, progress), config.template.subpopulations, config.seed)
    sizes = np.bincount(which)
    print(f"subpopulations: {', '.join(f'{n} people in {ascii_uppercase[i]}' for i, n in enumerate(sizes))}")
    rows = [
        {"participant_id": f"sub-{subject.id}", SUBPOPULATION: ascii_uppercase[index]}
        for subject, index in zip(subjects, which, strict=True)
    ]
    write_tsv(layout.subpopulations, rows, list(rows[0]))


def _cells(images: AlignedImages, order: tqdm[int]) -> tuple[Array, Array]:
    """The means (N, cells) of people's images over coarse cells, and the share of each with data."""
    grid = images.grid
    pool = {2: avg_pool2d, 3: avg_pool3d}[grid.ndim]
    side = -(-max(grid.tensor_shape) // CELLS)
    values, shares = [], []
    for index in order:
        image, mask = images.batch([index])
        share = pool(mask, side, ceil_mode=True)
        values.append((pool(image * mask, side, ceil_mode=True) / share.clamp(min=1e-6)).flatten().numpy())
        shares.append(share.flatten().numpy())
    return np.stack(values), np.stack(shares)


def clusters(values: Array, shares: Array, count: int, seed: int) -> Array:
    """The cluster (N,), 0 the largest, of each row of values (N, M), by k-means from many starts.

    Where a row has no data (its share (N, M) is below one half) the others' mean says nothing for or against.
    There can be fewer clusters than `count`, where rows are equal.
    """
    usual = np.average(values, axis=0, weights=np.maximum(shares, 1e-6))
    whole = np.where(shares > 0.5, values, usual).astype(np.float64)
    centers, _ = kmeans(whole, count, iter=STARTS, rng=np.random.default_rng(seed))
    found, _ = vq(whole, centers)
    order = np.argsort(-np.bincount(found, minlength=len(centers)), kind="stable")
    return np.argsort(order)[found]


@torch.inference_mode()
def nearest_subpopulation(config: Config, subject: Subject) -> str:
    """The subpopulation of an aligned subject who wasn't in the cohort: that whose template is closest."""
    model = Groupwise.load(config.layout.template_weights)
    image, mask = AlignedImages(config.layout, [subject], model.grid).batch([0])

    def distance(subpopulation: str) -> float:
        code = model.code.encode({**subject.covariates, SUBPOPULATION: subpopulation})
        return float((mask * (model.template(code[None]) - image).square()).sum())

    return min(model.code.categorical[SUBPOPULATION], key=distance)
