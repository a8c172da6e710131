"""Labels whose probability depends on a covariate without any deformation."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from atlasmith.config import Config
from atlasmith.core.sampling import local_mean
from atlasmith.core.world import CPU, resample_labels
from atlasmith.inference.conditional_labels import (
    NOISE,
    RADIUS,
    UNKNOWN,
    ConditionalLabels,
    fit_label,
    regress_label,
    segmentations_of,
)
from atlasmith.io.files import write_json
from atlasmith.io.images import read_labels
from atlasmith.io.tables import read_cohort, read_label_values
from atlasmith.io.transforms import read_composite
from atlasmith.networks import Groupwise
from atlasmith.training.regression import regression

LEVEL, SLOPE = 0.5, 0.1


def simulate(seed: int, atlases: int = 12) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Simulate labels and residuals of intensity (N, 14, 14), and codes (N, 1), of atlases.

    Atlases differ by more than the covariate explains. The label is dark; the regression of intensities on
    the covariate is known.
    """
    random = np.random.default_rng(seed)
    codes = random.normal(size=(atlases, 1))
    probability = LEVEL + SLOPE * codes + 0.15 * random.normal(size=(atlases, 1))
    labels = random.random((atlases, 14, 14)) < probability[:, :, None]
    intensities = 1 - 0.8 * labels + 0.05 * random.normal(size=labels.shape)
    line = 1 - 0.8 * (LEVEL + SLOPE * codes[:, :, None])
    return tuple(torch.from_numpy(x).float() for x in (labels, intensities - line, codes))  # type: ignore


def test_intensities_of_all_subjects_reduce_the_variance_of_few_atlases() -> None:
    errors = []
    for seed in range(40):
        labels, residuals, codes = simulate(seed)
        level, slopes = fit_label(labels, residuals, codes)
        assert level.shape == (14, 14) and slopes.shape == (1, 14, 14)
        _, plain = regression(((one[None, None], torch.ones(1, 1, 14, 14)) for one in labels), codes)
        errors.append([float(slopes.mean()) - SLOPE, float(plain.mean()) - SLOPE])
    ours, plain_ = np.array(errors).T
    assert ours.std() < 0.3 * plain_.std()
    assert abs(ours.mean()) < 0.15 * SLOPE  # the ridge's share


def test_uninformative_intensities_leave_the_regression_of_labels() -> None:
    labels, residuals, codes = simulate(0)
    alone = fit_label(labels, torch.zeros_like(residuals), codes)
    level, slopes = regression(((one[None, None], torch.ones(1, 1, 14, 14)) for one in labels), codes)
    torch.testing.assert_close(alone[0], level[0, 0])
    assert float(alone[1].mean()) == pytest.approx(float(slopes.mean()), abs=0.003)
    assert alone[1].std() < 0.5 * slopes.std()  # smooth


@pytest.fixture
def segmented(toy_registered: Config, tmp_path: Path) -> Config:
    """The toy run with manual labels in the place of all segmentations."""
    shutil.copytree(toy_registered.output, tmp_path / "run")
    fusion = toy_registered.fusion.model_copy(
        update={"methods": ["majority", "autocontext"], "train_subjects": True}
    )
    config = toy_registered.model_copy(update={"output": tmp_path / "run", "fusion": fusion})
    for subject in read_cohort(config.layout.cohort):
        assert subject.labels is not None
        for method in fusion.methods:
            shutil.copy(subject.labels, config.layout.segmentation(subject.id, method))
            write_json(config.layout.segmentation_sidecar(subject.id, method), {})
    return config


def test_segmentations_are_used_where_they_are_unbiased_and_of_most_subjects(segmented: Config) -> None:
    cohort = read_cohort(segmented.layout.cohort)  # 8 atlases, 3 targets, 3 for training
    assert list(segmentations_of(segmented, cohort, "autocontext")) == [
        s.id for s in cohort if s.role != "atlas"
    ]
    assert not segmentations_of(segmented, cohort, "majority")
    without = segmented.model_copy(
        update={"fusion": segmented.fusion.model_copy(update={"train_subjects": False})}
    )
    targets = segmentations_of(without, cohort, "autocontext")
    assert list(targets) == [s.id for s in cohort if s.role == "target"]
    write_json(segmented.layout.segmentation_sidecar("09", "autocontext"), {"NeedsReview": True})
    assert "09" not in segmentations_of(segmented, cohort, "autocontext")
    few = [s for s in cohort if s.role != "atlas"] + [replace(cohort[-1], role="atlas")]
    assert not segmentations_of(without, few, "autocontext")


def test_segmentations_count_as_labels(segmented: Config) -> None:
    layout, cohort = segmented.layout, read_cohort(segmented.layout.cohort)
    model, values = Groupwise.load(layout.template_weights), np.array(read_label_values(layout.labels))
    with torch.inference_mode():
        segmentations = segmentations_of(segmented, cohort, "autocontext")
        found = ConditionalLabels(layout, model, cohort, values, segmentations).models
        maps = []
        for subject in cohort:
            assert subject.labels is not None
            own, steps = read_labels(subject.labels), read_composite(layout.forward(subject.id))
            maps.append(resample_labels(own.data, own.grid, steps, model.grid, CPU))
    ages = torch.stack([model.code.encode(subject.covariates) for subject in cohort]).double().numpy()
    design = np.column_stack([np.ones(len(ages)), ages])
    penalty = np.diag([0.0, 1.0])  # the slopes' alone, about the mean age
    penalty[0, :] = penalty[:, 0] = 0
    centered = design - [0, ages.mean()]
    for position, box, level, slopes in found:
        truth = np.stack([(one[box] == values[position]).double().numpy().ravel() for one in maps])
        fitted = np.linalg.solve(centered.T @ centered + penalty, centered.T @ truth)
        expected = torch.from_numpy(fitted[1].reshape(1, *level.shape)).float()
        torch.testing.assert_close(slopes, local_mean(expected, RADIUS), atol=1e-4, rtol=0)
        at_zero = (fitted[0] - ages.mean() * fitted[1]).reshape(level.shape)
        np.testing.assert_allclose(level, at_zero, atol=1e-4)


def test_what_is_out_of_view_is_no_background() -> None:
    random = np.random.default_rng(0)
    codes = torch.from_numpy(random.normal(size=(40, 1))).float()
    labels = torch.from_numpy(random.random((40, 9, 9)) < 0.5 + 0.1 * codes.numpy()[:, :, None]).short()
    unseen = labels.clone()
    unseen[codes[:, 0] > 0.5, :4] = UNKNOWN
    level, slopes = regress_label(labels, 1, codes)
    some = regress_label(unseen, 1, codes)
    alone = regress_label(labels[codes[:, 0] <= 0.5], 1, codes[codes[:, 0] <= 0.5])
    torch.testing.assert_close(some[0][4:], level[4:])
    torch.testing.assert_close(some[0][:4], alone[0][:4])
    torch.testing.assert_close(some[1][:, :2], alone[1][:, :2])
    assert float(slopes.mean()) == pytest.approx(SLOPE, abs=0.03)


@pytest.mark.parametrize("box", [(1, 1), (1, 4), (1, 1, 1), (2, 1, 7)], ids=str)
def test_a_label_in_a_box_of_few_voxels(box: tuple[int, ...]) -> None:
    """The formula in NumPy, with means over what the box has of each voxel's neighborhood."""
    random = np.random.default_rng(0)
    codes = random.normal(size=(9, 2))
    labels = (random.random((9, *box)) < 0.5).astype(float)
    residuals = random.normal(size=(9, *box))

    def local_mean(x: np.ndarray) -> np.ndarray:
        windows = {i: tuple(slice(max(0, k - 2), k + 3) for k in i) for i in np.ndindex(*box)}
        return np.stack(
            [x[(..., *window)].reshape(*x.shape[: -len(box)], -1).mean(-1) for window in windows.values()], -1
        )

    covariance = local_mean((residuals * (labels - labels.mean(0))).sum(0))
    variance = local_mean((residuals**2).sum(0))
    coefficient = (covariance / (variance + 9 * NOISE)).reshape(box)
    adjusted = (labels - coefficient * residuals).reshape(9, -1)
    centered = codes - codes.mean(0)
    fitted = np.linalg.solve(centered.T @ centered + np.eye(2), centered.T @ adjusted)
    level, slopes = fit_label(*(torch.from_numpy(x) for x in (labels, residuals, codes)))
    np.testing.assert_allclose(level.reshape(-1), adjusted.mean(0) - codes.mean(0) @ fitted, atol=1e-9)
    np.testing.assert_allclose(slopes.flatten(1), local_mean(fitted.reshape(2, *box)), atol=1e-9)
