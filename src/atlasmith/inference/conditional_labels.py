"""The template's label probabilities as a function of its covariates.

The template's deformation with the covariates moves labels. Where subjects don't match voxel by voxel, as in
the folds of the cortex, a covariate also changes the probability of a label at a voxel: labels, resampled to
the mean covariates, are regressed on them. Atlases are few. Where most other subjects are segmented by a
trained fusion method, their segmentations count as labels. Else the template's intensities, which are
regressed on all subjects, predict labels: the atlases' residuals of intensity correct their labels (the
regression estimator of double sampling, Cochran 1977, Sampling Techniques, ch. 12).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from atlasmith.config import Config
from atlasmith.core.boxes import bounding_boxes
from atlasmith.core.grid import Array
from atlasmith.core.labels import label_index
from atlasmith.core.ranks import choose_evenly
from atlasmith.core.sampling import local_mean
from atlasmith.core.world import resample_labels
from atlasmith.fusion.table import FUSERS
from atlasmith.io.files import read_json
from atlasmith.io.images import read_labels
from atlasmith.io.layout import Layout
from atlasmith.io.tables import Subject
from atlasmith.io.transforms import read_composite
from atlasmith.networks import Groupwise
from atlasmith.training.dataset import AlignedImages
from atlasmith.training.regression import regression

RADIUS = 2  # voxels of the neighborhood in which the relation of labels to intensities is estimated
NOISE = 1e-3  # variance of intensities in [0, 1]
LARGEST = 4 * 2**30  # bytes of the label maps that are used
UNKNOWN = -1  # the position of a label out of the field of view
GROUP = 32  # labels that are warped at once: all of a brain's would take their memory again


def segmentations_of(config: Config, cohort: Sequence[Subject], method: str) -> dict[str, Path]:
    """Find a run's segmentations by a fusion method, for `ConditionalLabels`.

    Args:
        config: Of the finished run.
        cohort: Its subjects.
        method: The fusion method. A network that segments the image itself tends toward the atlases' mean,
            too, and so does an ensemble with it: the choice is `pseudo_label_method` of the config.

    Returns:
        By id, of subjects that are no atlases and need no review. None unless, with the atlases, they are at
        least half of all, whose intensities are known; and none of a method without training: such methods
        tend toward the atlases' mean, and show a part of a covariate's effect alone.
    """
    layout = config.layout
    if not FUSERS[method].is_trained:
        return {}
    roles = {"target", "train"} if config.fusion.train_subjects else {"target"}
    found = {}
    for subject in cohort:
        sidecar = layout.segmentation_sidecar(subject.id, method)
        if subject.role in roles and sidecar.exists() and not read_json(sidecar).get("NeedsReview"):
            found[subject.id] = layout.segmentation(subject.id, method)
    atlases = sum(subject.role == "atlas" for subject in cohort)
    return found if 2 * (atlases + len(found)) >= len(cohort) else {}


class ConditionalLabels:
    """Label probabilities of a finished run's template at any covariates.

    Args:
        layout: Names of the run's files.
        model: The trained template; its device computes.
        cohort: The run's subjects; the manual labels of those with the role `atlas` are used.
        values: The labels (L,), in the order of the probabilities.
        segmentations: Of others, by id, see `segmentations_of`; none: intensities are used.
    """

    def __init__(
        self,
        layout: Layout,
        model: Groupwise,
        cohort: Sequence[Subject],
        values: Array,
        segmentations: Mapping[str, Path],
    ) -> None:
        atlases = [subject for subject in cohort if subject.role == "atlas"]
        self.model, self.shape = model, (len(values), *model.grid.tensor_shape)
        most = LARGEST // (2 * math.prod(self.shape[1:]))
        others = choose_evenly([s for s in cohort if s.id in segmentations], max(1, most - len(atlases)))
        subjects = [*atlases, *others]
        device = model.base.device
        codes = torch.stack([model.code.encode(subject.covariates) for subject in subjects]).to(device)
        images = AlignedImages(layout, subjects, model.grid, device=device)
        labels = torch.empty(len(subjects), *self.shape[1:], dtype=torch.int16, device=device)
        residuals = torch.empty(0 if others else len(subjects), *self.shape[1:], device=device)
        for index, subject in enumerate(subjects):
            path = subject.labels if subject.role == "atlas" else segmentations[subject.id]
            assert path is not None  # the cohort's checks made sure
            own, steps = read_labels(path), read_composite(layout.forward(subject.id))
            labels[index] = resample_labels(
                label_index(own.data, values), own.grid, steps, model.grid, device
            )
            image, mask = images.resampled(index, steps)
            if others:
                labels[index].masked_fill_(mask[0].amax(dim=0) == 0, UNKNOWN)
            else:
                residuals[index] = ((image - model.intensities(codes[index : index + 1])) * mask)[0, 0]
        self.models = []
        for position, box in bounding_boxes(labels):
            if position > 0:
                part = labels[:, *box]
                fitted = (
                    regress_label(part, position, codes)
                    if others
                    else fit_label((part == position).float(), residuals[:, *box], codes)
                )
                self.models.append((position - 1, box, *fitted))

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


def regress_label(labels: Tensor, position: int, codes: Tensor) -> tuple[Tensor, Tensor]:
    """Regress one label on covariates, where each subject has labels.

    Args:
        labels: Positions of labels (N, *box); a subject doesn't count where it is `UNKNOWN`.
        position: That of the label.
        codes: Encoded covariates (N, K).

    Returns:
        Intercept (*box) and slopes (K, *box), smoothed as by `fit_label`.
    """
    maps = (one[None, None] for one in labels)
    weighted = (((one == position) * 1.0, (one != UNKNOWN) * 1.0) for one in maps)
    intercept, slopes = regression(weighted, codes)
    return intercept[0, 0], local_mean(slopes[:, 0], RADIUS)


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
