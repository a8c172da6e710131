"""What is unusual about a scan, against planted values."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_dilation, uniform_filter
from scipy.spatial.transform import Rotation

from atlasmith.fusion.suitability import (
    LEAST_VARIANCE,
    QUANTILES,
    WINDOW,
    Measurements,
    _dilated,
    _pose,
    correlation,
    find_reasons,
    fit_suitability,
    local_correlation,
)


def scans(random: np.random.Generator, count: int) -> list[Measurements]:
    """Scans with usual measures of one channel."""
    return [
        Measurements(
            {
                "similarity:T1w": 1 - 0.03 * np.exp(0.3 * random.normal()),
                "local_similarity:T1w": 1 - 0.05 * np.exp(0.3 * random.normal()),
                "field_of_view": min(1.0, 1 - 0.01 * random.normal()),
                "scale": np.exp(0.1 * random.normal()),
                "stretch": 1.1 + 0.03 * abs(random.normal()),
                "rotation_deg": abs(6 + 3 * random.normal()),
                "deformation": 0.25 * np.exp(0.1 * random.normal()),
            },
            {"T1w": QUANTILES + 0.01 * random.normal()},
        )
        for _ in range(count)
    ]


@pytest.mark.parametrize("count", [6, 15, 60])
def test_few_usual_scans_are_found_unusual(count: int) -> None:
    random = np.random.default_rng(0)
    warned = [
        bool(find_reasons(scan, model))
        for model in (fit_suitability(scans(random, count)) for _ in range(20))
        for scan in scans(random, 50)
    ]
    assert np.mean(warned) < 0.02


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("similarity:T1w", 0.4),
        ("local_similarity:T1w", -0.3),
        ("field_of_view", 0.5),
        ("scale", 0.1),
        ("scale", 10.0),
        ("rotation_deg", 170.0),
    ],
)
def test_one_unusual_measure_is_named(name: str, value: float) -> None:
    random = np.random.default_rng(1)
    # Two unsuitable scans among those of the run change nothing.
    broken = [Measurements({**scan.values, name: value}, scan.quantiles) for scan in scans(random, 2)]
    model = fit_suitability([*scans(random, 30), *broken])
    (scan,) = scans(random, 1)
    assert find_reasons(scan, model) == []
    scan.values[name] = value
    (reason,) = find_reasons(scan, model)
    usual = model["measures"][name]["median"]
    assert f" is {value:.2f}, where that of this run's scans is about {usual:.2f}." in reason


def test_intensities_are_compared_by_their_quantiles() -> None:
    random = np.random.default_rng(2)
    model = fit_suitability(scans(random, 30))
    (scan,) = scans(random, 1)
    inverted = Measurements(scan.values, {"T1w": 1 - QUANTILES[::-1] ** 3})
    (reason,) = find_reasons(inverted, model)
    assert "intensities" in reason and "(T1w)" in reason


def test_the_worst_comes_first_and_unknown_channels_are_left_out() -> None:
    random = np.random.default_rng(3)
    model = fit_suitability(scans(random, 30))
    (scan,) = scans(random, 1)
    scan.values.update({"field_of_view": 0.6, "scale": 1e-4, "similarity:T2w": 0.0})
    reasons = find_reasons(scan, model)
    assert [reason.split(" is ")[0] for reason in reasons] == [
        "The volume relative to the template",
        "The share of the labels' region in view",
    ]


def test_too_few_scans_tell_nothing() -> None:
    random = np.random.default_rng(4)
    model = fit_suitability(scans(random, 2))
    assert model["threshold"] is None
    assert find_reasons(Measurements({"similarity:T1w": 0.0}), model) == []


def test_sessions_of_a_participant_do_not_vouch_for_each_other() -> None:
    single = scans(np.random.default_rng(2), 12)
    repeated = [replace(scan, participant=f"{k:02d}") for k, scan in enumerate(single) for _ in range(2)]
    assert fit_suitability(repeated)["threshold"] == pytest.approx(fit_suitability(single)["threshold"])
    of_one = [replace(scan, participant="01") for scan in single]
    assert fit_suitability(of_one)["threshold"] is None


def test_correlations() -> None:
    a, b = torch.from_numpy(np.random.default_rng(5).random((2, WINDOW, WINDOW, WINDOW)))
    expected = np.corrcoef(a.flatten(), b.flatten())[0, 1]
    assert correlation(a.flatten(), b.flatten()) == pytest.approx(expected)
    middle = (WINDOW // 2,) * 3
    assert float(local_correlation(a, b)[middle]) == pytest.approx(expected)
    assert float(local_correlation(a, 1 - a)[middle]) == pytest.approx(-1)
    assert correlation(torch.ones(5), torch.arange(5.0)) == 0


@pytest.mark.parametrize("shape", [(12, 9, 11), (14, 10, 1), (3, 2, 5)])
def test_local_correlation_is_that_of_the_window(shape: tuple[int, ...]) -> None:
    a, b = np.random.default_rng(6).random((2, *shape))
    window = [WINDOW if n > 1 else 1 for n in shape]
    mean = partial(uniform_filter, size=window, mode="nearest")
    variances = [np.maximum(mean(x * x) - mean(x) ** 2, LEAST_VARIANCE) for x in (a, b)]
    expected = (mean(a * b) - mean(a) * mean(b)) / np.sqrt(variances[0] * variances[1])
    found = local_correlation(torch.from_numpy(a), torch.from_numpy(b))
    np.testing.assert_allclose(found, expected, atol=1e-9)


@pytest.mark.parametrize("shape", [(12, 9, 11), (14, 10, 1)])
def test_a_dilated_mask_is_scipys(shape: tuple[int, ...]) -> None:
    mask = np.random.default_rng(7).random(shape) > 0.99
    assert mask.any()
    found = _dilated(torch.from_numpy(mask), 3)
    np.testing.assert_array_equal(found, binary_dilation(mask, iterations=3))


def test_the_pose_of_an_affine() -> None:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_rotvec([0, 0.3, 0]).as_matrix() @ np.diag([1.0, 1.2, 2.0])
    assert _pose(affine) == pytest.approx({"scale": 2.4, "stretch": 2.0, "rotation_deg": np.degrees(0.3)})
