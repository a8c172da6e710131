"""The template's label probabilities as a function of its covariates.

The template's deformation with the covariates moves labels. Where subjects don't match voxel by voxel, as in
the folds of the cortex, a covariate also changes the probability of a label at a voxel: the manual labels of
the atlases, resampled to the mean covariates, are regressed on them. Atlases are few, but other subjects have
what predicts their labels: a segmentation by fusion, or else intensities, on which the template's are
regressed already. So the atlases' residuals of that correct their labels (the regression estimator of double
sampling, Cochran 1977, Sampling Techniques, ch. 12); segmentations that are biased toward the atlases' mean
don't bias it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

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
NOISE = 1e-3  # variance of intensities in [0, 1], or of labels
LARGEST = 4 * 2**30  # bytes of the segmentations that are used
GROUP = 32  # labels that are warped at once: all of a brain's would take their memory again


class ConditionalLabels:
    """Label probabilities of a finished run's template at any covariates.

    Args:
        layout: Names of the run's files.
        model: The trained template; its device computes.
        cohort: The run's subjects; the manual labels of those with the role `atlas` are used.
        values: The labels (L,), in the order of the probabilities.
        method: The fusion method whose segmentations are used where all atlases, and others, have one.
    """

    def __init__(
        self, layout: Layout, model: Groupwise, cohort: Sequence[Subject], values: Array, method: str
    ) -> None:
        atlases = [subject for subject in cohort if subject.role == "atlas"]
        self.model = model
        self.shape = (len(values), *model.grid.tensor_shape)
        device = model.base.device
        codes = torch.stack([model.code.encode(atlas.covariates) for atlas in atlases]).to(device)
        labels = _label_positions(layout, model, atlases, values, [atlas.labels for atlas in atlases])
        segmented = {s.id: s for s in cohort if layout.segmentation(s.id, method).exists()}
        others = [s for s in segmented.values() if s.role != "atlas"][: LARGEST // labels[0].nbytes]
        if others and all(atlas.id in segmented for atlas in atlases):
            predicted = _segmentations(layout, model, [*atlases, *others], values, method)
        else:
            predicted = _intensities(layout, model, atlases)
        self.models = []
        for position, box in bounding_boxes(labels):
            if position:
                one = (labels[:, *box] == position).float()
                self.models.append((position - 1, box, *fit_label(one, codes, *predicted(position, box))))

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


def _label_positions(
    layout: Layout,
    model: Groupwise,
    subjects: Sequence[Subject],
    values: Array,
    paths: Sequence[Path | None],
) -> Tensor:
    """Resample label files to the template's grid at the mean covariates.

    Returns:
        (N, *shape) int16, from 1 the positions of labels among `values`, 0 for any other.
    """
    device = model.base.device
    known = torch.as_tensor(values, dtype=torch.int32, device=device)
    positions = torch.empty(len(subjects), *model.grid.tensor_shape, dtype=torch.int16, device=device)
    for out, subject, path in zip(positions, subjects, paths, strict=True):
        assert path is not None  # the cohort's checks made sure
        own, steps = read_labels(path), read_composite(layout.forward(subject.id))
        found = resample_labels(own.data, own.grid, steps, model.grid, device)
        at = torch.searchsorted(known, found).clamp(max=len(known) - 1)
        out.copy_((at + 1).where(known[at] == found, 0))
    return positions


# From a label's position and box to what predicts it: the residuals of the atlases (N, *box) and, where it is
# known, the line over all subjects, its value at code 0 (*box) and slopes (K, *box).
LabelPredictor = Callable[[int, tuple[slice, ...]], Sequence[Tensor]]


def _segmentations(
    layout: Layout, model: Groupwise, subjects: Sequence[Subject], values: Array, method: str
) -> LabelPredictor:
    """Predict labels by the segmentations of subjects, of which some are atlases."""
    paths = [layout.segmentation(subject.id, method) for subject in subjects]
    labels = _label_positions(layout, model, subjects, values, paths)
    codes = torch.stack([model.code.encode(s.covariates) for s in subjects]).to(labels.device)
    of_atlases = torch.tensor([s.role == "atlas" for s in subjects], device=labels.device)

    def predicted(position: int, box: tuple[slice, ...]) -> Sequence[Tensor]:
        found = (labels[:, *box] == position).float()
        level, slopes = _regressed(found, codes)
        expected = level + torch.einsum("nk,k...->n...", codes[of_atlases], slopes)
        return found[of_atlases] - expected, level, slopes

    return predicted


def _intensities(layout: Layout, model: Groupwise, atlases: Sequence[Subject]) -> LabelPredictor:
    """Predict any label by intensities, of which the template at the atlases' covariates is the line."""
    images = AlignedImages(layout, atlases, model.grid, device=model.base.device)
    found = []
    for index, atlas in enumerate(atlases):
        image, mask = images.resampled(index, read_composite(layout.forward(atlas.id)))
        code = model.code.encode(atlas.covariates).to(image.device)
        found.append(((image - model.intensities(code[None])) * mask)[0, 0])
    residuals = torch.stack(found)
    return lambda position, box: [residuals[:, *box]]


def fit_label(
    labels: Tensor,
    codes: Tensor,
    residuals: Tensor,
    level: Tensor | None = None,
    slopes: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Regress one label on covariates, by the atlases and what predicts it on all subjects.

    Args:
        labels: The label of each atlas (N, *box), 0 or 1.
        codes: Encoded covariates (N, K).
        residuals: Of each atlas (N, *box), what predicts its label minus the line of that over all subjects.
        level: That line at code 0 (*box); None: it isn't known apart from its residuals.
        slopes: Those of that line (K, *box).

    Returns:
        Intercept (*box) and slopes (K, *box). Slopes are smoothed: those of single voxels, of few atlases,
        would mostly be cut off at probabilities of 0 and 1.
    """
    sums = [(residuals * (labels - labels.mean(0))).sum(0), residuals.square().sum(0)]
    covariance, variance = local_mean(torch.stack(sums), RADIUS)
    coefficient = covariance / (variance + len(codes) * NOISE)
    if level is None or slopes is None:
        intercept, slopes = _regressed(labels - coefficient * residuals, codes)
    else:  # the penalty on slopes concerns what all subjects don't tell
        line = level + torch.einsum("nk,k...->n...", codes, slopes)
        rest = _regressed(labels - coefficient * (residuals + line), codes)
        intercept, slopes = (r + coefficient * x for r, x in zip(rest, (level, slopes), strict=True))
    return intercept, local_mean(slopes, RADIUS)


def _regressed(maps: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    """Intercept (*box) and slopes (K, *box) of maps (N, *box) over codes (N, K)."""
    intercept, slopes = regression(((one, torch.ones_like(one)) for one in maps[:, None, None]), codes)
    return intercept[0, 0], slopes[:, 0]
