"""Labels whose probability depends on a covariate without any deformation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from atlasmith.inference.conditional_labels import NOISE, fit_label
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
