"""Labels whose probability depends on a covariate without any deformation."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from atlasmith.config import Config
from atlasmith.core.boxes import bounding_boxes
from atlasmith.core.sampling import local_mean
from atlasmith.inference.conditional_labels import (
    NOISE,
    RADIUS,
    ConditionalLabels,
    _label_positions,
    _regressed,
    fit_label,
    segmentations_of,
)
from atlasmith.io.files import write_json
from atlasmith.io.tables import read_cohort, read_label_values
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
        level, slopes = fit_label(labels, codes, residuals)
        assert level.shape == (14, 14) and slopes.shape == (1, 14, 14)
        _, plain = regression(((one[None, None], torch.ones(1, 1, 14, 14)) for one in labels), codes)
        errors.append([float(slopes.mean()) - SLOPE, float(plain.mean()) - SLOPE])
    ours, plain_ = np.array(errors).T
    assert ours.std() < 0.3 * plain_.std()
    assert abs(ours.mean()) < 0.15 * SLOPE  # the ridge's share


def test_uninformative_intensities_leave_the_regression_of_labels() -> None:
    labels, residuals, codes = simulate(0)
    alone = fit_label(labels, codes, torch.zeros_like(residuals))
    level, slopes = regression(((one[None, None], torch.ones(1, 1, 14, 14)) for one in labels), codes)
    torch.testing.assert_close(alone[0], level[0, 0])
    assert float(alone[1].mean()) == pytest.approx(float(slopes.mean()), abs=0.003)
    assert alone[1].std() < 0.5 * slopes.std()  # smooth


@pytest.mark.parametrize("share", [1.0, 0.6])
def test_segmentations_of_all_subjects_tell_the_slope_whatever_their_bias(share: float) -> None:
    """Segmentations that show a share of how subjects differ, as those by a majority vote."""
    random, errors = np.random.default_rng(0), []
    for _ in range(40):
        codes = torch.from_numpy(random.normal(size=(100, 1))).float()
        different = torch.from_numpy(0.15 * random.normal(size=(100, 1))) + SLOPE * codes
        threshold = torch.from_numpy(random.random((100, 14, 14)))
        labels, segmented = ((threshold < LEVEL + x * different[:, :, None]).float() for x in (1.0, share))
        level, slopes = _regressed(segmented, codes)
        atlases = slice(0, 12)
        residuals = segmented[atlases] - level - torch.einsum("nk,k...->n...", codes[atlases], slopes)
        _, ours = fit_label(labels[atlases], codes[atlases], residuals, level, slopes)
        estimates = ours, slopes, _regressed(labels[atlases], codes[atlases])[1]
        errors.append([float(estimate.mean()) - SLOPE for estimate in estimates])
    ours_, segmentations, alone = np.array(errors).T
    assert ours_.std() < (0.4 if share == 1 else 0.7) * alone.std()
    assert abs(ours_.mean()) < 0.1 * SLOPE
    assert (segmentations.mean() < -0.3 * SLOPE) == (share < 1)


def test_segmentations_like_the_manual_labels_count_as_these(toy_registered: Config, tmp_path: Path) -> None:
    shutil.copytree(toy_registered.output, tmp_path / "run")
    layout = toy_registered.model_copy(update={"output": tmp_path / "run"}).layout
    cohort, model = read_cohort(layout.cohort), Groupwise.load(layout.template_weights)
    values = np.array(read_label_values(layout.labels))

    @torch.inference_mode()
    def slopes(method: str) -> dict[int, Tensor]:
        fusion = toy_registered.fusion.model_copy(update={"methods": [method], "train_subjects": True})
        config = toy_registered.model_copy(update={"output": tmp_path / "run", "fusion": fusion})
        segmentations = segmentations_of(config, cohort)
        assert len(segmentations) == (14 if method == "staple" else 0)
        models = ConditionalLabels(layout, model, cohort, values, segmentations).models
        return {position: found for position, _, _, found in models}

    before = slopes("majority")
    for subject in cohort:
        assert subject.labels is not None
        for method in ("staple", "jlf") if subject.role == "atlas" else ("staple",):
            shutil.copy(subject.labels, layout.segmentation(subject.id, method))
            write_json(layout.segmentation_sidecar(subject.id, method), {})
    assert all(map(torch.equal, slopes("jlf").values(), before.values()))  # the atlases' own say nothing
    codes = torch.stack([model.code.encode(subject.covariates) for subject in cohort])
    with torch.inference_mode():
        paths = {s.id: s.labels for s in cohort if s.labels is not None}
        everyone = _label_positions(layout, model, cohort, values, paths)
        for (position, found), atlases in zip(slopes("staple").items(), before.values(), strict=True):
            box = dict(bounding_boxes(everyone[[s.role == "atlas" for s in cohort]]))[position + 1]
            expected = local_mean(_regressed((everyone[:, *box] == position + 1).float(), codes)[1], RADIUS)
            assert (found - expected).norm() < 0.1 * expected.norm() < 0.5 * (atlases - expected).norm()


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
    level, slopes = fit_label(*(torch.from_numpy(x) for x in (labels, codes, residuals)))
    np.testing.assert_allclose(level.reshape(-1), adjusted.mean(0) - codes.mean(0) @ fitted, atol=1e-9)
    np.testing.assert_allclose(slopes.flatten(1), local_mean(fitted.reshape(2, *box)), atol=1e-9)
