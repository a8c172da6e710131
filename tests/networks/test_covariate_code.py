"""Covariates as numbers."""

import pytest
import torch

from atlasmith.core.errors import AtlasmithError
from atlasmith.networks import CovariateCode

COHORT = [
    {"age": 20.0, "sex": "F", "dose": 1.0},
    {"age": 40.0, "sex": "M", "dose": None},
    {"age": 60.0, "sex": "F", "dose": 3.0},
    {"age": 80.0, "sex": None, "dose": 2.0},
]


def test_codes_have_mean_zero_and_missing_values_are_the_mean() -> None:
    code = CovariateCode.of(["age", "sex", "dose"], COHORT)
    assert code.size == 4
    codes = torch.stack([code.encode(subject) for subject in COHORT])
    torch.testing.assert_close(codes.mean(0), torch.zeros(4), atol=1e-6, rtol=0)
    assert codes[:, 0].std(correction=0).item() == pytest.approx(1)
    assert (code.encode({}) == 0).all()
    with pytest.raises(AtlasmithError, match="sex: 'X' wasn't in the cohort"):
        code.encode({"sex": "X"})
