"""The template's label probabilities as a function of its covariates.

The template's deformation with the covariates moves labels. Where subjects don't match voxel by voxel, as in
the folds of the cortex, a covariate also changes the probability of a label at a voxel: the labels of the
atlases, resampled to the mean covariates, are regressed on them. Atlases are few, but the template's
intensities are regressed on all subjects and predict labels; so the atlases' residuals of intensity correct
their labels (the regression estimator of double sampling, Cochran 1977, Sampling Techniques, ch. 12).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from atlasmith.core.boxes import bounding_boxes
from atlasmith.core.grid import Array
from atlasmith.core.sampling import local_mean
from atlasmith.core.world import resample_labels
from atlasmith.io.images import read_labels
from atlasmith.io.layout import Layout
from atlasmith.io.tables import Subject
from atlasmith.io.transforms import read_composite
from atlasmith.networks import Groupwise
from atlasmith.training.dataset import AlignedImages
from atlasmith.training.regression import regression

RADIUS = 2  # voxels of the neighborhood in which the relation of labels to intensities is estimated
NOISE = 1e-3  # variance of intensities in [0, 1]
GROUP = 32  # labels that are warped at once: all of a brain's would take their memory again


class ConditionalLabels:
    """Label probabilities of a finished run's template at any covariates.

    Args:
        layout: Names of the run's files.
        model: The trained template; its device computes.
        cohort: The run's subjects; those with the role `atlas` are used.
        values: The labels (L,), in the order of the probabilities.
    """

    def __init__(self, layout: Layout, model: Groupwise, cohort: Sequence[Subject], values: Array) -> None:
        atlases = [subject for subject in cohort if subject.role == "atlas"]
        self.model = model
        self.shape = (len(values), *model.grid.tensor_shape)
        device = model.base.device
        codes = torch.stack([model.code.encode(atlas.covariates) for atlas in atlases]).to(device)
        images = AlignedImages(layout, atlases, model.grid, device=device)
        labels = torch.empty(len(atlases), *self.shape[1:], dtype=torch.int32, device=device)
        residuals = torch.empty(labels.shape, device=device)
        for index, atlas in enumerate(atlases):
            assert atlas.labels is not None  # the cohort's checks made sure
            own, steps = read_labels(atlas.labels), read_composite(layout.forward(atlas.id))
            labels[index] = resample_labels(own.data, own.grid, steps, model.grid, device)
            image, mask = images.resampled(index, steps)
            residuals[index] = ((image - model.intensities(codes[index : index + 1])) * mask)[0, 0]
        self.models = []
        positions = {value: position for position, value in enumerate(values.tolist())}
        for value, box in bounding_boxes(labels):
            if value in positions:
                fitted = fit_label((labels[:, *box] == value).float(), residuals[:, *box], codes)
                self.models.append((positions[value], box, *fitted))

    def __call__(self, code: Tensor) -> Tensor:
        """Return the probabilities (1, L, *shape) at encoded covariates (size,), on the template there."""
        code = code.to(self.model.base.device)
        probabilities = code.new_zeros(1, *self.shape)
        for position, box, intercept, slopes in self.models:
            value = intercept + torch.einsum("k,k...->...", code, slopes)
            probabilities[0, position][box] = value.clamp(0, 1)
        probabilities /= probabilities.sum(dim=1, keepdim=True).clamp(min=1)
        for group in probabilities.split(GROUP, dim=1):
            group.copy_(self.model.at_covariates(group, code[None]))
        return probabilities


def fit_label(labels: Tensor, residuals: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    """Regress one label on covariates, after subtracting what the residual of intensity predicts of it.

    Args:
        labels: The label of each atlas (N, *box), 0 or 1.
        residuals: Intensity (N, *box) minus that of the template at the atlas's covariates.
        codes: Encoded covariates (N, K).

    Returns:
        Intercept (*box) and slopes (K, *box). Slopes are smoothed: those of single voxels, of few atlases,
        would mostly be cut off at probabilities of 0 and 1.
    """
    sums = [(residuals * (labels - labels.mean(0))).sum(0), residuals.square().sum(0)]
    covariance, variance = local_mean(torch.stack(sums), RADIUS)
    coefficient = covariance / (variance + len(codes) * NOISE)
    adjusted = (labels - coefficient * residuals)[:, None, None]
    intercept, slopes = regression(((one, torch.ones_like(one)) for one in adjusted), codes)
    return intercept[0, 0], local_mean(slopes[:, 0], RADIUS)
