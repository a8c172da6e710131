"""The template's label probabilities as a function of its covariates.

Growth moves labels as it moves the template. But where people don't match voxel by voxel, as in the folds of
the cortex, a covariate also changes how likely a label is at a voxel: the labels of the atlases, brought to
the mean covariates, are regressed on them. Atlases are few, and all have intensities, which say much about
labels; so what goes with intensities is learned from everyone (the regression estimator of double sampling,
Cochran 1977, Sampling Techniques, ch. 12).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from atlasmith.config import Config
from atlasmith.core.grid import Array
from atlasmith.core.labels import bounding_boxes
from atlasmith.core.world import resample_labels
from atlasmith.io.images import read_labels
from atlasmith.io.tables import Subject
from atlasmith.io.transforms import read_composite
from atlasmith.networks import Groupwise
from atlasmith.training.dataset import AlignedImages
from atlasmith.training.regression import regression

RADIUS = 2  # voxels, of the neighborhood in which labels go with intensities alike
NOISE = 1e-3  # of intensities in [0, 1], variance


class ConditionalLabels:
    """Probabilities of `values`, labels in their order, on the template of a finished run's `model`."""

    def __init__(self, config: Config, model: Groupwise, cohort: Sequence[Subject], values: Array) -> None:
        atlases = [subject for subject in cohort if subject.role == "atlas"]
        self.model = model
        self.shape = (len(values), *model.grid.tensor_shape)
        codes = torch.stack([model.code.encode(atlas.covariates) for atlas in atlases])
        images = AlignedImages(config.layout, atlases, model.grid)
        maps, unexpected = [], []
        for index, atlas in enumerate(atlases):
            assert atlas.labels is not None  # the cohort's checks saw to it
            own, steps = read_labels(atlas.labels), read_composite(config.layout.forward(atlas.id))
            maps.append(resample_labels(own.data, own.grid, steps, model.grid))
            image, seen = images.resampled(index, steps)
            unexpected.append(((image - model.intensities(codes[index : index + 1])) * seen)[0, 0])
        labels, residuals = torch.stack(maps), torch.stack(unexpected)
        self.parts = []
        positions = {value: position for position, value in enumerate(values.tolist())}
        for value, (_, *box) in bounding_boxes(labels.numpy()):
            if value in positions:
                found = _lines((labels[:, *box] == value).float(), residuals[:, *box], codes)
                self.parts.append((positions[value], tuple(box), *found))

    def __call__(self, code: Tensor) -> Tensor:
        """(1, labels, *shape) at encoded covariates (size,), where the template has them."""
        shares = torch.zeros(1, *self.shape)
        for position, box, level, slopes in self.parts:
            shares[0, position][box] = (level + torch.einsum("k,k...->...", code, slopes)).clamp(0, 1)
        shares /= shares.sum(dim=1, keepdim=True).clamp(min=1)
        return self.model.at_covariates(shares, code[None])


def _lines(shown: Tensor, residuals: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    """The regression on codes (N, K) of one label (N, *box), 0 or 1, less what an intensity that is
    unexpected at its covariates (N, *box) says about it: level (*box) and slopes (K, *box)."""
    products = torch.stack([residuals * (shown - shown.mean(0)), residuals.square()]).sum(1)
    together, alone = _near(products)
    about = together / (alone + len(codes) * NOISE)
    adjusted = (shown - about * residuals)[:, None, None]
    level, slopes = regression(((one, torch.ones_like(one)) for one in adjusted), codes)
    # Smooth: what few atlases say of a single voxel would mostly be cut off at probabilities of 0 and 1.
    return level[0, 0], _near(slopes[:, 0])


def _near(values: Tensor) -> Tensor:
    """The mean of values (N, *box) over the neighborhood."""
    pool = {2: F.avg_pool2d, 3: F.avg_pool3d}[values.ndim - 1]
    return pool(values[:, None], 2 * RADIUS + 1, 1, RADIUS, count_include_pad=False)[:, 0]
