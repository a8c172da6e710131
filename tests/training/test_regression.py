"""Voxelwise regression of maps on covariates."""

import numpy as np
import pytest
import torch

from atlasmith.training.regression import regression


@pytest.mark.parametrize("covariates", [0, 1, 3])
def test_regression_is_a_ridge_with_an_unpenalized_mean(covariates: int) -> None:
    random = np.random.default_rng(0)
    codes, maps = random.normal(0.3, 1, (9, covariates)), random.normal(size=(9, 2, 5, 4))
    values = ((torch.from_numpy(m)[None], torch.ones(1, 1, 5, 4).double()) for m in maps)
    base, slopes = regression(values, torch.from_numpy(codes))
    # Least squares with a row of 1 for each covariate, which shrinks the slopes but not the mean.
    centered = codes - codes.mean(0)
    rows = np.block([[np.ones((9, 1)), centered], [np.zeros((covariates, 1)), np.eye(covariates)]])
    wanted = np.concatenate([maps.reshape(9, -1), np.zeros((covariates, 40))])
    found = np.linalg.lstsq(rows, wanted, rcond=None)[0]
    np.testing.assert_allclose(slopes.flatten(1), found[1:], atol=1e-12)
    np.testing.assert_allclose(base.reshape(-1), found[0] - codes.mean(0) @ found[1:], atol=1e-12)


def test_voxels_outside_a_mask_are_left_out() -> None:
    maps = [torch.full((1, 1, 4), value) for value in (1.0, 3.0)]
    masks = [torch.tensor([[[1.0, 1, 0, 0]]]), torch.tensor([[[1.0, 0, 0, 1]]])]
    base, _ = regression(zip(maps, masks, strict=True), torch.zeros(2, 0))
    torch.testing.assert_close(base, torch.tensor([[[2.0, 1, 0, 3]]]))
