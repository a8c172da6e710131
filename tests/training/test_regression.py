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


@pytest.mark.parametrize("covariates", [1, 3])
def test_a_missing_subject_is_as_one_that_is_not_in_the_cohort(covariates: int) -> None:
    """Two channels, of which subjects lack one or have holes: each voxel is a ridge on those that it has."""
    random = np.random.default_rng(0)
    codes, maps = random.normal(0.3, 1, (9, covariates)), random.normal(5, 1, size=(9, 2, 5, 4))
    masks = np.ones(maps.shape, dtype=bool)
    masks[:4, 1] = False  # absent channel
    masks[6, :, 2:4, 1:3] = False
    masks[:, 0, 4, 3] = False
    values = (
        (torch.from_numpy(m)[None], torch.from_numpy(w)[None].double())
        for m, w in zip(np.where(masks, maps, 99), masks, strict=True)
    )
    base, slopes = (x.numpy() for x in regression(values, torch.from_numpy(codes)))
    for place in np.ndindex(2, 5, 4):
        there = masks[(slice(None), *place)]
        if not there.any():
            assert base[0][place] == 0 and (slopes[(slice(None), *place)] == 0).all()
            continue
        centered = codes[there] - codes[there].mean(0)
        rows = np.block(
            [[np.ones((there.sum(), 1)), centered], [np.zeros((covariates, 1)), np.eye(covariates)]]
        )
        wanted = np.concatenate([maps[(there, *place)], np.zeros(covariates)])
        found = np.linalg.lstsq(rows, wanted, rcond=None)[0]
        np.testing.assert_allclose(slopes[(slice(None), *place)], found[1:], atol=1e-10)
        np.testing.assert_allclose(base[0][place], found[0] - codes[there].mean(0) @ found[1:], atol=1e-10)
