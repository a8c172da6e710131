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

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from atlasmith.config import Config
from atlasmith.core.boxes import bounding_boxes
from atlasmith.core.grid import Array
from atlasmith.core.ranks import choose_evenly
from atlasmith.core.sampling import local_mean
from atlasmith.core.world import resample_labels
from atlasmith.io.files import read_json
from atlasmith.io.images import read_labels
from atlasmith.io.layout import Layout
from atlasmith.io.tables import Subject
from atlasmith.io.transforms import read_composite
from atlasmith.networks import Groupwise
from atlasmith.training.dataset import AlignedImages
from atlasmith.training.regression import regression

RADIUS = 2  # voxels of the neighborhood in which the relation of labels to what predicts them is estimated
NOISE = 1e-3  # variance of intensities in [0, 1], or of labels
LARGEST = 4 * 2**30  # bytes of the segmentations that are used
UNKNOWN = -1  # the position of a label out of the field of view
GROUP = 32  # labels that are warped at once: all of a brain's would take their memory again


def segmentations_of(config: Config, cohort: Sequence[Subject]) -> dict[str, Path]:
    """Find a run's segmentations by its last fusion method, for `ConditionalLabels`.

    Args:
        config: Of the finished run.
        cohort: Its subjects.

    Returns:
        By id, of atlases and of others that need no review; none unless all atlases and at least half of the
        subjects are segmented, since intensities are known of all.
    """
    layout, fusion = config.layout, config.fusion
    roles = {"target": True, "train": fusion.train_subjects, "atlas": fusion.quality or bool(fusion.networks)}
    paths = {s.id: layout.segmentation(s.id, fusion.methods[-1]) for s in cohort if roles[s.role]}
    sidecars = {name: layout.segmentation_sidecar(name, fusion.methods[-1]) for name in paths}
    found = {
        name: path
        for name, path in paths.items()
        if path.exists() and sidecars[name].exists() and not read_json(sidecars[name]).get("NeedsReview")
    }
    atlases = {subject.id for subject in cohort if subject.role == "atlas"}
    return found if atlases < found.keys() and 2 * len(found) >= len(cohort) else {}


class ConditionalLabels:
    """Label probabilities of a finished run's template at any covariates.

    Args:
        layout: Names of the run's files.
        model: The trained template; its device computes.
        cohort: The run's subjects; the manual labels of those with the role `atlas` are used.
        values: The labels (L,), in the order of the probabilities.
        segmentations: By id, of all atlases and of other subjects; none: intensities are used.
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
        self.model = model
        self.shape = (len(values), *model.grid.tensor_shape)
        device = model.base.device
        codes = torch.stack([model.code.encode(atlas.covariates) for atlas in atlases]).to(device)
        manual = {atlas.id: atlas.labels for atlas in atlases if atlas.labels is not None}
        labels = _label_positions(layout, model, atlases, values, manual)
        predicted = (
            _segmentations(layout, model, cohort, values, segmentations)
            if segmentations
            else _intensities(layout, model, atlases)
        )
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
    layout: Layout, model: Groupwise, subjects: Sequence[Subject], values: Array, paths: Mapping[str, Path]
) -> Tensor:
    """Resample the label files of subjects, by id, to the template's grid at the mean covariates.

    Returns:
        (N, *shape) int16, from 1 the positions of labels among `values`, 0 for any other.
    """
    device = model.base.device
    known = torch.as_tensor(values, dtype=torch.int32, device=device)
    positions = torch.empty(len(subjects), *model.grid.tensor_shape, dtype=torch.int16, device=device)
    for out, subject in zip(positions, subjects, strict=True):
        own, steps = read_labels(paths[subject.id]), read_composite(layout.forward(subject.id))
        found = resample_labels(own.data, own.grid, steps, model.grid, device)
        at = torch.searchsorted(known, found).clamp(max=len(known) - 1)
        out.copy_((at + 1).where(known[at] == found, 0))
    return positions


# From a label's position and box to what predicts it: the residuals of the atlases (N, *box) and, where it is
# known, the line over all subjects, its value at code 0 (*box) and slopes (K, *box).
LabelPredictor = Callable[[int, tuple[slice, ...]], Sequence[Tensor]]


def _segmentations(
    layout: Layout,
    model: Groupwise,
    cohort: Sequence[Subject],
    values: Array,
    segmentations: Mapping[str, Path],
) -> LabelPredictor:
    """Predict labels by segmentations, where these are in the field of view and not excluded."""
    atlases = [subject for subject in cohort if subject.role == "atlas"]
    others = [s for s in cohort if s.role != "atlas" and s.id in segmentations]
    most = max(1, LARGEST // (2 * math.prod(model.grid.tensor_shape)) - len(atlases))
    subjects = [*atlases, *choose_evenly(others, most)]
    labels = _label_positions(layout, model, subjects, values, segmentations)
    images = AlignedImages(layout, subjects, model.grid, device=labels.device)
    for index, subject in enumerate(subjects):
        _, mask = images.resampled(index, read_composite(layout.forward(subject.id)))
        labels[index].masked_fill_(mask[0].amax(dim=0) == 0, UNKNOWN)
    codes = torch.stack([model.code.encode(s.covariates) for s in subjects]).to(labels.device)

    def predicted(position: int, box: tuple[slice, ...]) -> Sequence[Tensor]:
        maps = (one[None, None, *box] for one in labels)
        weighted = (((one == position).float(), (one != UNKNOWN).float()) for one in maps)
        level, slopes = _first_channel(regression(weighted, codes))
        own, of_atlases = labels[: len(atlases), *box], codes[: len(atlases)]
        expected = level + torch.einsum("nk,k...->n...", of_atlases, slopes)
        return ((own == position).float() - expected) * (own != UNKNOWN), level, slopes

    return predicted


def _intensities(layout: Layout, model: Groupwise, atlases: Sequence[Subject]) -> LabelPredictor:
    """Predict any label by intensities, of which the template at the atlases' covariates is the line."""
    images = AlignedImages(layout, atlases, model.grid, device=model.base.device)
    residuals = torch.empty(len(atlases), *model.grid.tensor_shape, device=model.base.device)
    for index, atlas in enumerate(atlases):
        image, mask = images.resampled(index, read_composite(layout.forward(atlas.id)))
        code = model.code.encode(atlas.covariates).to(image.device)
        residuals[index] = ((image - model.intensities(code[None])) * mask)[0, 0]
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
    found = regression(((one, torch.ones_like(one)) for one in maps[:, None, None]), codes)
    return _first_channel(found)


def _first_channel(found: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Intercept (*shape) and slopes (K, *shape) of the first channel of a regression."""
    return found[0][0, 0], found[1][:, 0]
