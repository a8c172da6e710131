"""Labels that become likelier with a covariate, with no deformation that shows it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from atlasmith.inference.conditional_labels import _lines
from atlasmith.training.regression import regression

LEVEL, SLOPE = 0.5, 0.1


def drawn(seed: int, atlases: int = 12) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Labels and unexpected intensities (N, 14, 14), and codes (N, 1), of atlases that differ among each
    other by more than the covariate explains. A label is dark; everyone's line of intensities is known."""
    random = np.random.default_rng(seed)
    codes = random.normal(size=(atlases, 1))
    likely = LEVEL + SLOPE * codes + 0.15 * random.normal(size=(atlases, 1))
    labels = random.random((atlases, 14, 14)) < likely[:, :, None]
    intensities = 1 - 0.8 * labels + 0.05 * random.normal(size=labels.shape)
    line = 1 - 0.8 * (LEVEL + SLOPE * codes[:, :, None])
    return tuple(torch.from_numpy(x).float() for x in (labels, intensities - line, codes))  # type: ignore


def test_intensities_of_everyone_make_few_atlases_surer() -> None:
    errors = []
    for seed in range(40):
        labels, residuals, codes = drawn(seed)
        level, slopes = _lines(labels, residuals, codes)
        assert level.shape == (14, 14) and slopes.shape == (1, 14, 14)
        _, plain = regression(((one[None, None], torch.ones(1, 1, 14, 14)) for one in labels), codes)
        errors.append([float(slopes.mean()) - SLOPE, float(plain.mean()) - SLOPE])
    ours, plain_ = np.array(errors).T
    assert ours.std() < 0.3 * plain_.std()
    assert abs(ours.mean()) < 0.15 * SLOPE  # the ridge's share


def test_where_intensities_say_nothing_labels_alone_decide() -> None:
    labels, residuals, codes = drawn(0)
    alone = _lines(labels, torch.zeros_like(residuals), codes)
    level, slopes = regression(((one[None, None], torch.ones(1, 1, 14, 14)) for one in labels), codes)
    torch.testing.assert_close(alone[0], level[0, 0])
    assert float(alone[1].mean()) == pytest.approx(float(slopes.mean()), abs=0.003)
    assert alone[1].std() < 0.5 * slopes.std()  # smooth
