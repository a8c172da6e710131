"""Metrics against closed forms, values by hand, slow references, SimpleITK, surface-distance and SciPy."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage, stats
from surface_distance import metrics as surfel

from atlasmith.core.grid import Array
from atlasmith.evaluation import metrics, statistics


def counts(truth: Any, predicted: Any, labels: int) -> metrics.Counts:
    return metrics.count_overlap(np.asarray(truth), np.asarray(predicted), labels)


def test_units_are_in_the_names() -> None:
    units = {"hd_mm": "mm", "sharpness_per_mm": "1/mm", "psnr_db": "dB", "surface_dice_1mm": "1", "dice": "1"}
    assert {name: metrics.METRICS[name].unit for name in units} == units
    endings = {"1/mm": "_per_mm", "1/mm2": "_per_mm2", "mm": "_mm", "%": "_percent", "dB": "_db"}
    for name, metric in metrics.METRICS.items():
        ending = endings.get(metric.unit)
        assert name.endswith(ending) if ending else not name.endswith(tuple(endings.values()))


def test_exported_names_and_the_table_agree() -> None:
    for name in metrics.__all__:
        assert callable(getattr(metrics, name)) or isinstance(getattr(metrics, name), dict)
    for name, metric in metrics.METRICS.items():
        assert metric.function is getattr(metrics, "ncc" if name == "pearson" else name)
        assert metric.text


def test_every_metric_is_on_the_page_of_metrics() -> None:
    page = Path(__file__).parents[1] / "docs" / "metrics.md"
    documented = set(re.findall(r"`(\w+)`", page.read_text(encoding="utf-8")))
    assert set(metrics.METRICS) <= documented


# Overlap


@pytest.mark.parametrize("name", metrics.metrics_of("multilabel"))
def test_multilabel_of_equal_and_empty_maps(name: str) -> None:
    metric = metrics.METRICS[name]
    both, first, none = np.array([1, 1, 2, 0]), np.array([1, 1, 0, 0]), np.zeros(4, int)
    assert metric(counts(both, both, 2)) == 1
    assert metric(counts(both, both, 7)) == 1  # labels in neither map don't count
    assert metric(counts(both, none, 2)) == 0
    assert metric(counts(none, both, 2)) == 0
    assert np.isnan(metric(counts(none, none, 2)))
    assert 0 < metric(counts(both, first, 2)) < 1
    assert 0 < metric(counts(first, both, 2)) < 1


def test_multilabel_dice_by_hand() -> None:
    truth = [1] * 4 + [2] + [0] * 5
    predicted = [1] * 2 + [0] * 2 + [2] * 2 + [3] + [0] * 3  # 2 of 4; 1 of 1 and one too many; a false 3
    found = counts(truth, predicted, 3)
    assert metrics.volume_weighted_dice(found) == pytest.approx(2 * (2 + 1) / (6 + 3 + 1))
    # Weights 1/16 and 1; label 3 weighs as label 2, the smallest.
    assert metrics.generalized_dice(found) == pytest.approx(2 * (2 / 16 + 1) / (6 / 16 + 3 + 1))


def test_volume_weighted_dice_is_the_weighted_mean() -> None:
    truth, predicted = np.random.default_rng(0).integers(0, 4, (2, 500))
    found = counts(truth, predicted, 3)
    expected = np.average(metrics.dice(found), weights=found.truth + found.predicted)
    assert metrics.volume_weighted_dice(found) == pytest.approx(expected)


# Surfaces


def as_itk(mask: Array, spacing: tuple[float, ...]) -> sitk.Image:
    image = sitk.GetImageFromArray(mask.astype(np.uint8))
    image.SetSpacing(spacing[::-1])
    return image


def ball(shape: tuple[int, ...], center: float, radius: float, spacing: tuple[float, ...]) -> Array:
    offsets = np.indices(shape) * np.reshape(spacing, (-1, *[1] * len(shape))) - center
    return np.linalg.norm(offsets, axis=0) < radius


@pytest.mark.parametrize("spacing", [(1.0, 0.8), (0.7, 1.0, 1.2)])
def test_hd_agrees_with_simpleitk(spacing: tuple[float, ...]) -> None:
    shape = (26,) * len(spacing)
    box = np.zeros(shape, bool)
    box[(slice(5, 12),) * len(spacing)] = True
    shifted = np.roll(box, (4, 2), (0, 1))
    balls = [ball(shape, center, radius, spacing) for center, radius in ((8, 5), (10, 6))]
    for (truth, predicted), tolerance in (((box, shifted), 1e-6), (balls, np.linalg.norm(spacing))):
        hausdorff = sitk.HausdorffDistanceImageFilter()
        hausdorff.Execute(as_itk(truth, spacing), as_itk(predicted, spacing))
        found = metrics.hd_mm(metrics.surface_distances(truth, predicted, spacing))
        assert found == pytest.approx(hausdorff.GetHausdorffDistance(), abs=tolerance)


def test_surface_scores_by_hand() -> None:
    distances = {
        "distances_gt_to_pred": np.array([0.0, 1.0, 2.0]),
        "surfel_areas_gt": np.array([1.0, 2.0, 1.0]),
        "distances_pred_to_gt": np.array([1.5, 4.0]),
        "surfel_areas_pred": np.array([3.0, 1.0]),
    }
    assert metrics.hd_mm(distances) == 4
    assert metrics.mad_mm(distances) == pytest.approx((4 / 4 + 8.5 / 4) / 2)
    assert metrics.surface_dice_1mm(distances) == pytest.approx(3 / 8)
    assert metrics.surface_dice(distances, 1.5) == pytest.approx(6 / 8)
    assert metrics.surface_dice(distances, 4) == 1


def blobs(shape: tuple[int, ...], labels: int) -> tuple[Array, Array]:
    """Two maps of the values 0..`labels` that differ a little everywhere."""
    rng = np.random.default_rng(1)
    fields = ndimage.gaussian_filter(rng.random((labels + 1, *shape)), (0, *[3] * len(shape)))
    noise = ndimage.gaussian_filter(rng.random(fields.shape), (0, *[1.5] * len(shape)))
    return fields.argmax(axis=0), (fields + 0.1 * noise).argmax(axis=0)


@pytest.mark.parametrize("spacing", [(1.0, 0.5), (1.0, 0.8, 1.5)])
def test_surface_scores_of_all_labels_are_those_of_single_masks(spacing: tuple[float, ...]) -> None:
    truth, predicted = blobs((40, 36, 20)[: len(spacing)], 6)
    truth = np.where(truth == 6, 0, truth)
    predicted = np.where(predicted == 5, 0, predicted)
    names = list(metrics.metrics_of("surface"))
    found = metrics.score_labels(truth, predicted, 7, spacing, names)
    assert list(found) == names
    for label in range(1, 5):
        assert (truth == label).any() and (predicted == label).any()
        distances = surfel.compute_surface_distances(truth == label, predicted == label, spacing)
        expected = {
            "hd_mm": surfel.compute_robust_hausdorff(distances, 100),
            "hd95_mm": surfel.compute_robust_hausdorff(distances, 95),
            "assd_mm": np.average(
                np.concatenate([distances["distances_gt_to_pred"], distances["distances_pred_to_gt"]]),
                weights=np.concatenate([distances["surfel_areas_gt"], distances["surfel_areas_pred"]]),
            ),
            "mad_mm": np.mean(surfel.compute_average_surface_distance(distances)),
            "surface_dice_1mm": surfel.compute_surface_dice_at_tolerance(distances, 1),
        }
        assert {name: values[label - 1] for name, values in found.items()} == pytest.approx(expected)
    for name, values in found.items():
        missing = [0, 0] if name == "surface_dice_1mm" else [np.nan, np.nan]
        np.testing.assert_array_equal(values[4:], [*missing, np.nan])
    assert metrics.score_labels(truth, predicted, 7, spacing, []) == {}


# Landmarks


def test_tre() -> None:
    expected = np.zeros((4, 3))
    mapped = np.array([[3.0, 4, 0], [0, 0, 1], [0, 2, 0], [0, 0, 0]])
    assert metrics.tre_mm(mapped, expected) == 2
    assert metrics.tre_quantile_mm(mapped, expected, 0.5) == 1.5
    assert metrics.tre_quantile_mm(mapped, expected, 1) == 5
    assert metrics.tre_quantile_mm(np.arange(11.0)[:, None], np.zeros((11, 1))) == pytest.approx(7)
    assert np.isnan(metrics.tre_mm(mapped[:0], expected[:0]))
    assert np.isnan(metrics.tre_quantile_mm(mapped[:0], expected[:0]))


# Deformations


@pytest.mark.parametrize("matrix", [[[1.5, 0.2], [0, 0.5]], [[1, 0.3, 0], [0.2, 2, 0.1], [0, -0.4, 0.7]]])
def test_jacobian_determinant_of_a_linear_map(matrix: list[list[float]]) -> None:
    shape = (5, 6, 7)[: len(matrix)]
    displacement = np.tensordot(matrix - np.eye(len(matrix)), np.indices(shape), 1)
    kept = displacement.copy()
    assert metrics.jacobian_determinant(displacement) == pytest.approx(np.full(shape, np.linalg.det(matrix)))
    assert (displacement == kept).all()
    volume = metrics.nondiffeomorphic_volume(displacement)
    assert (volume == 0).all()


def test_sd_log_jacobian_of_learn2reg() -> None:
    determinant = np.full((8, 8), 1e6)
    determinant[2:-2, 2:-2] = -3 + 1 / np.e
    determinant[2, 2:-2] = -3 + np.e
    determinant[3, 2:-2] = -10  # counts as 1e-9
    mask = np.ones((8, 8), bool)
    expected = np.std([1, np.log(1e-9), -1, -1])
    assert metrics.sd_log_jacobian_learn2reg(determinant, mask) == pytest.approx(expected)
    mask[3] = False
    assert metrics.sd_log_jacobian_learn2reg(determinant, mask) == pytest.approx(np.std([1, -1, -1]))
    assert np.isnan(metrics.sd_log_jacobian_learn2reg(determinant, ~mask & False))
    assert np.isnan(metrics.sd_log_jacobian_learn2reg(np.ones((4, 9)), np.ones((4, 9), bool)))


@pytest.mark.parametrize("kind", [np.int16, np.float32])
def test_nondiffeomorphic_area_of_the_papers_example(kind: type) -> None:
    displacement = np.zeros((2, 3, 3), kind)
    displacement[:, 1, 1] = -1, 1  # the center goes to (0, 2)
    kept = displacement.copy()
    area = metrics.nondiffeomorphic_volume(displacement)
    assert (displacement == kept).all()
    assert area[1, 1] == 0.25
    assert metrics.jacobian_determinant(displacement)[1, 1] == 1  # by central differences it doesn't fold
    mask = np.zeros((3, 3), bool)
    assert np.isnan(metrics.nondiffeomorphic_area_percent(displacement, mask))
    mask[1, 1] = True
    assert metrics.nondiffeomorphic_area_percent(displacement, mask) == 25


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 6)])
def test_nondiffeomorphic_volume_of_identity_and_mirror(shape: tuple[int, ...]) -> None:
    identity = np.zeros((len(shape), *shape))
    mask = np.ones(shape, bool)
    assert metrics.nondiffeomorphic_volume_percent(identity, mask) == 0
    assert metrics.nondiffeomorphic_volume_percent(identity + 3.5, mask) == 0
    for axis in range(len(shape)):
        mirror = identity.copy()
        mirror[axis] = -2 * np.indices(shape)[axis]
        inside = np.zeros(shape, bool)
        inside[(slice(1, -1),) * len(shape)] = True
        # All of each voxel is flipped: its simplices fill a volume of 1.
        assert metrics.nondiffeomorphic_volume(mirror)[inside] == pytest.approx(1)
        assert metrics.nondiffeomorphic_volume_percent(mirror, inside) == pytest.approx(100)


def folded(mapped: Callable[..., Array], x: tuple[int, ...]) -> float:
    """The folded volume at x by the paper's determinants, one by one."""
    d, here = len(x), mapped(*x)

    def edge(*step: int) -> Array:
        return mapped(*np.add(x, step)) - here

    found = []
    for signs in itertools.product((-1, 1), repeat=d):
        columns = [sign * edge(*(sign * (np.arange(d) == axis))) for axis, sign in enumerate(signs)]
        found.append(np.linalg.det(np.stack(columns, axis=1)))
    if d == 3:
        below = [edge(-1, -1, 0), edge(-1, 0, -1), edge(0, -1, -1)]
        above = [edge(1, 1, 0), edge(0, 1, 1), edge(1, 0, 1)]
        found += [np.linalg.det(np.stack(columns, axis=1)) for columns in (below, above)]
    return 0.5 * sum(max(-j, 0) for j in found) / (2 if d == 2 else 6)


@pytest.mark.parametrize("shape", [(5, 4), (4, 3, 5)])
def test_nondiffeomorphic_volume_agrees_with_a_slow_reference(shape: tuple[int, ...]) -> None:
    displacement = np.random.default_rng(2).normal(0, 0.8, (len(shape), *shape))

    def mapped(*x: int) -> Array:
        nearest = tuple(np.clip(x, 0, np.array(shape) - 1))
        return np.array(x) + displacement[:, *nearest]

    expected = [folded(mapped, x) for x in np.ndindex(shape)]
    found = metrics.nondiffeomorphic_volume(displacement)
    assert found.ravel() == pytest.approx(expected)
    assert (found > 0).any()


# Images


def test_differences_have_their_closed_form() -> None:
    fixed = np.array([0, 50, 200, 255], np.uint8)
    moved = np.array([1, 48, 200, 252], np.uint8)  # in uint8, 0 - 1 would be 255
    assert metrics.mse(fixed, moved) == (1 + 4 + 9) / 4
    assert metrics.mae(fixed, moved) == 6 / 4
    assert metrics.psnr_db(np.zeros((4, 4)), np.full((4, 4), 0.1), 1) == pytest.approx(20)
    assert metrics.psnr_db(fixed, moved, 255) == pytest.approx(10 * np.log10(255**2 / 3.5))
    assert metrics.psnr_db(fixed, fixed, 255) == np.inf
    empty = fixed[:0]
    for metric in (metrics.mse, metrics.mae, metrics.ncc):
        assert np.isnan(metric(empty, empty))
    assert np.isnan(metrics.psnr_db(empty, empty, 255))


def test_ssim_has_its_closed_form() -> None:
    image = np.random.default_rng(3).random((14, 15))
    assert metrics.ssim(image, image, 1) == pytest.approx(1)
    flat = np.ones((14, 15))
    c1 = 1e-4
    assert metrics.ssim(0.2 * flat, 0.6 * flat, 1) == pytest.approx((0.24 + c1) / (0.04 + 0.36 + c1))
    assert metrics.ssim(0 * flat, 0 * flat, 1) == 1
    assert metrics.ssim(image, 1 - image, 1) < 0
    assert metrics.ssim(image, image**2, 1) == pytest.approx(metrics.ssim(9 * image, 9 * image**2, 9))
    assert np.isnan(metrics.ssim(image[:10], image[:10], 1))


@pytest.mark.parametrize("shape", [(40, 31), (20, 16, 18)])
def test_ssim_and_psnr_are_those_of_scikit_image(shape: tuple[int, ...]) -> None:
    reference = pytest.importorskip("skimage.metrics")
    fixed = ndimage.gaussian_filter(np.random.default_rng(4).random(shape), 1)
    moved = np.roll(fixed, 1, 0) + 0.05
    expected = reference.structural_similarity(
        fixed, moved, gaussian_weights=True, use_sample_covariance=False, sigma=1.5, data_range=2.0
    )
    assert metrics.ssim(fixed, moved, 2) == pytest.approx(expected)
    expected = reference.peak_signal_noise_ratio(fixed, moved, data_range=2.0)
    assert metrics.psnr_db(fixed, moved, 2) == pytest.approx(expected)


# Templates


def test_centrality_of_fields_without_spread() -> None:
    displacements = np.broadcast_to([3.0, 4, 0], (6, 10, 3))
    assert metrics.centrality_mm(displacements, 0, 50) == pytest.approx((5, 5, 5))
    value, *interval = metrics.centrality_mm(displacements[:1], 0, 50)
    assert value == 5 and np.isnan(interval).all()
    # Opposite halves: the template is central, however long the displacements are.
    value, low, high = metrics.centrality_mm(np.concatenate([displacements, -displacements]), 0, 50)
    assert (value, low) == (0, 0) and 1 < high < 5


@pytest.mark.parametrize("length", [0.0, 0.5, 3.0])
def test_centrality_interval_covers_the_truth(length: float) -> None:
    rng = np.random.default_rng(5)
    samples = rng.normal([length, 0, 0], 2, (150, 25, 20, 3))
    found = np.array([metrics.centrality_mm(sample, 0, 100) for sample in samples])
    assert (found[:, 0] > length).mean() > 0.5  # sampling error lengthens
    covered = np.mean((found[:, 1] <= length) & (found[:, 2] >= length))
    assert covered >= 0.88
    assert metrics.centrality_mm(samples[0], 0, 100) == tuple(found[0])


def test_scans_of_a_participant_are_resampled_together() -> None:
    fields = np.random.default_rng(5).normal([0.5, 0, 0], 2, (12, 20, 3))
    alone = metrics.centrality_mm(fields, 0, 200)
    owners = [str(k // 3) for k in range(36)]
    assert metrics.centrality_mm(np.repeat(fields, 3, axis=0), 0, 200, owners) == pytest.approx(alone)
    value, low, high = metrics.centrality_mm(np.repeat(fields, 3, axis=0), 0, 200)
    assert value == pytest.approx(alone[0]) and high - low < alone[2] - alone[1]
    # Participants count by their scans: the template is the center of these.
    uneven = np.concatenate(
        [np.broadcast_to([3.0, 0, 0], (3, 5, 3)), np.broadcast_to([-1.0, 0, 0], (1, 5, 3))]
    )
    assert metrics.centrality_mm(uneven, 0, 50, ["a", "a", "a", "b"])[0] == pytest.approx(2)


def test_bridge_dice() -> None:
    own = np.array([1, 1, 1, 1, 2, 2, 0, 0])
    others = np.array([[1, 1, 1, 0, 2, 1, 0, 0], [1, 1, 2, 0, 2, 1, 0, 0], [0, 1, 1, 1, 2, 2, 0, 0]])
    # Their plurality: 1 1 1 0 2 1 0 0
    np.testing.assert_allclose(metrics.bridge_dice(others, own, 3), [6 / 8, 2 / 3, np.nan])
    np.testing.assert_allclose(metrics.bridge_dice(own[None], own, 2), 1)


# Calibration


def binary(confidence: list[float]) -> Array:
    return np.array([confidence, 1 - np.array(confidence)])


def test_calibration_by_hand() -> None:
    probabilities = binary([0.9, 0.9, 0.6, 0.6, 0.6])
    labels = np.array([0, 1, 0, 0, 1])  # of those at .9, a half is right; of those at .6, two thirds
    gaps = 0.4, 2 / 3 - 0.6
    assert metrics.ece(probabilities, labels) == pytest.approx((2 * gaps[0] + 3 * gaps[1]) / 5)
    assert metrics.mce(probabilities, labels) == pytest.approx(gaps[0])
    # One bin holds all: the gap of the means.
    assert metrics.ece(probabilities, labels, bins=1) == pytest.approx(0.72 - 0.6)
    assert metrics.brier(probabilities, labels) == pytest.approx(2 * np.mean([0.01, 0.81, 0.16, 0.16, 0.36]))
    assert metrics.nll(probabilities, labels) == pytest.approx(-np.log([0.9, 0.1, 0.6, 0.6, 0.4]).mean())


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_calibration_at_the_ends(kind: type) -> None:
    labels = np.array([2, 0, 1])
    sure = np.eye(3, dtype=kind)[:, labels]
    wrong = np.roll(sure, 1, axis=0)
    worst_of = {metrics.ece: 1, metrics.mce: 1, metrics.brier: 2, metrics.nll: -np.log(1e-7)}
    for metric, worst in worst_of.items():
        assert metric(sure, labels) == 0
        assert metric(wrong, labels) == pytest.approx(worst)
        assert np.isnan(metric(sure[:, :0], labels[:0]))


def test_drawn_labels_are_calibrated() -> None:
    rng = np.random.default_rng(6)
    probabilities = rng.dirichlet([0.5, 0.5, 0.5], 20000).T
    labels = (rng.random(20000) > probabilities.cumsum(axis=0)).sum(axis=0)
    assert metrics.ece(probabilities, labels) < 0.02
    assert metrics.ece(probabilities**3 / (probabilities**3).sum(axis=0), labels) > 0.05


@pytest.mark.parametrize(("name", "best"), [("pearson", 1), ("spearman", 1), ("ause", 0)])
def test_uncertainty_metrics_of_related_and_constant_errors(name: str, best: float) -> None:
    metric = metrics.metrics_of("uncertainty")[name]
    rng = np.random.default_rng(7)
    error = rng.random(400)
    assert metric(error, error) == pytest.approx(best)
    near, far = (metric(error + amount * rng.random(400), error) for amount in (0.3, 3))
    assert abs(near - best) < abs(far - best)
    assert np.isnan(metric(error, np.zeros(400)))
    assert np.isnan(metric(error[:0], error[:0]))
    wrong = error > 0.8
    assert np.isfinite(metric(error, wrong))
    shuffled = rng.permutation(400)
    assert metric(error[shuffled] ** 2, wrong[shuffled]) == pytest.approx(metric(error**2, wrong))


def test_spearman_is_that_of_scipy() -> None:
    uncertainty, error = np.random.default_rng(8).integers(0, 9, (2, 60))
    expected = stats.spearmanr(uncertainty, error).statistic
    assert metrics.spearman(uncertainty, error) == pytest.approx(expected)
    assert metrics.spearman(error, error**3) == pytest.approx(1)
    assert np.isnan(metrics.spearman(np.ones(5), np.arange(5)))


def test_sparsification_by_hand() -> None:
    error = np.array([0.0, 1.0])
    # Left with all and then one voxel: errors .5 and 1 where the best are .5 and 0, of a mean of .5.
    assert metrics.ause(np.array([1.0, 0.0]), error) == pytest.approx(1)
    assert metrics.ause(np.array([0.0, 1.0]), error) == 0
    assert metrics.ause(np.array([3.0, 3.0]), error) == pytest.approx(0.5)


# Sets of atlases


def test_plurality_and_agreement() -> None:
    propagated = np.array([[1, 3, 0, 5], [1, 2, 0, 4], [2, 2, 0, 3]])
    winner, most = metrics.plurality(propagated)
    assert winner.tolist() == [1, 2, 0, 3] and most.tolist() == [2, 2, 3, 1]
    assert metrics.agreement(propagated) == pytest.approx(8 / 12)
    assert metrics.agreement(propagated[:1]) == 1
    assert np.isnan(metrics.agreement(propagated[:, :0]))


@pytest.mark.parametrize("atlases", [1, 2, 5, 12])
def test_plurality_agrees_with_counting(atlases: int) -> None:
    propagated = np.random.default_rng(9).integers(0, 6, (atlases, 300))
    kept = propagated.copy()
    tally = np.array([np.bincount(column, minlength=6) for column in propagated.T])
    winner, most = metrics.plurality(propagated)
    assert (winner == tally.argmax(axis=1)).all() and (most == tally.max(axis=1)).all()
    assert (propagated == kept).all()


def test_oracle_by_hand() -> None:
    truth = np.array([1, 1, 2, 0])
    propagated = np.array([[1, 1, 0, 0], [1, 2, 0, 0], [1, 2, 2, 1]])  # right: 3, 1, 1, 2 of 3
    fraction, dice = metrics.oracle(propagated, truth, 3)
    assert fraction.tolist() == [1, 0.5, 0.25]
    np.testing.assert_allclose(dice, [[1, 1, np.nan], [2 / 3, 0, np.nan], [2 / 3, 0, np.nan]])


def test_oracle_agrees_with_a_slow_reference() -> None:
    rng = np.random.default_rng(10)
    truth = rng.integers(0, 4, 400)
    propagated = np.where(rng.random((6, 400)) < 0.6, truth, rng.integers(0, 4, (6, 400)))
    fraction, dice = metrics.oracle(propagated, truth, 3)
    for n in range(1, 7):
        right = (propagated == truth).sum(axis=0) >= n
        assert fraction[n - 1] == pytest.approx(right.mean())
        expected = metrics.dice(metrics.count_overlap(truth, np.where(right, truth, 0), 3))
        assert dice[n - 1] == pytest.approx(expected)
    empty_fraction, empty_dice = metrics.oracle(propagated[:, :0], truth[:0], 3)
    assert empty_fraction.shape == (6,) and empty_dice.shape == (6, 3)
    assert np.isnan(empty_fraction).all() and np.isnan(empty_dice).all()


# Statistics


def test_benjamini_hochberg() -> None:
    p = np.array([0.01, np.nan, 0.04, 0.03, 0.5])
    found = statistics.benjamini_hochberg(p)
    np.testing.assert_allclose(found, [0.04, np.nan, 0.16 / 3, 0.16 / 3, 0.5])
    many = np.random.default_rng(11).random(50) ** 3
    adjusted = statistics.benjamini_hochberg(many)
    assert adjusted == pytest.approx(stats.false_discovery_control(many))
    # The step-up procedure itself rejects the same.
    for q in (0.05, 0.2):
        ranked = np.sort(many)
        passing = np.flatnonzero(ranked <= q * np.arange(1, 51) / 50)
        limit = ranked[passing[-1]] if passing.size else -1
        assert ((adjusted <= q) == (many <= limit)).all()
    assert np.isnan(statistics.benjamini_hochberg(np.array([np.nan]))).all()
    assert statistics.benjamini_hochberg(np.array([])).shape == (0,)
