"""Evaluation of label maps on arrays, without a config."""

from __future__ import annotations

import doctest

import numpy as np
import pytest

from atlasmith.core.errors import AtlasmithError
from atlasmith.core.grid import Array
from atlasmith.evaluation import evaluate, metrics, segmentation_scores, statistics
from atlasmith.evaluation.metrics import atlases, deformation, image, surface, table


def maps() -> tuple[Array, Array]:
    """Labels 3 and 70 of boxes, the prediction shifted by a voxel; 9 is in the prediction alone."""
    truth = np.zeros((20, 16, 10), np.int16)
    truth[4:10, 4:12, 3:8] = 3
    truth[10:16, 4:12, 3:8] = 70
    predicted = np.roll(truth, 1, axis=1)
    predicted[0, 0, 0] = 9
    return predicted, truth


def scores(*args: object, **kwargs: object) -> dict[tuple[object, str], float]:
    return {(s.label, s.metric): s.value for s in evaluate(*args, **kwargs)}  # type: ignore[arg-type]


def test_scores_of_each_label_and_their_mean() -> None:
    predicted, truth = maps()
    found = scores(predicted, truth, (1.0, 2.0, 1.5), metrics=["dice", "hd_mm", "volume_weighted_dice"])
    assert found == pytest.approx(
        {
            (3, "dice"): 7 / 8,
            (9, "dice"): 0,
            (70, "dice"): 7 / 8,
            ("mean", "dice"): 7 / 12,
            (3, "hd_mm"): 2,
            (9, "hd_mm"): np.nan,
            (70, "hd_mm"): 2,
            ("mean", "hd_mm"): 2,
            ("all", "volume_weighted_dice"): 2 * 420 / 961,
        },
        nan_ok=True,
    )


def test_all_metrics_and_chosen_labels() -> None:
    predicted, truth = maps()
    found = evaluate(predicted, truth, (1, 1, 1), labels=[70, 3, 8])
    assert list(dict.fromkeys(s.metric for s in found)) == list(metrics.SEGMENTATION_METRICS)
    assert [s.label for s in found[:4]] == [3, 8, 70, "mean"]
    assert np.isnan(found[1].value)  # neither map has it
    assert found[3].value == pytest.approx(7 / 8)
    assert {s.metric: s.unit for s in found}["assd_mm"] == "mm"


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_single_slice_is_two_dimensional(axis: int) -> None:
    predicted, truth = (labels[..., 5] for labels in maps())
    spacing = [1.0, 2.0]
    expected = scores(predicted, truth, spacing)
    spacing.insert(axis, 7.0)
    slices = [np.expand_dims(labels, axis) for labels in (predicted, truth)]
    assert scores(*slices, spacing) == pytest.approx(expected, nan_ok=True)


def test_unusable_arguments_are_refused() -> None:
    predicted, truth = maps()
    with pytest.raises(ValueError, match="shape"):
        evaluate(predicted[1:], truth, (1, 1, 1))
    with pytest.raises(ValueError, match="2 voxel sizes"):
        evaluate(predicted, truth, (1, 1))
    with pytest.raises(ValueError, match="integers"):
        evaluate(predicted / 2, truth, (1, 1, 1))
    with pytest.raises(ValueError, match="no label"):
        evaluate(0 * predicted, 0 * truth, (1, 1, 1))
    with pytest.raises(AtlasmithError, match="Did you mean 'dice'"):
        evaluate(predicted, truth, (1, 1, 1), metrics=["dise"])


def test_a_new_metric_is_a_function_and_an_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    def false_discovery(counts: metrics.Counts) -> Array:
        return 1 - metrics.precision(counts)

    entry = metrics.Metric(false_discovery, "1 - precision", "overlap", "1", "lower")
    monkeypatch.setitem(metrics.METRICS, "false_discovery", entry)
    monkeypatch.setitem(metrics.SEGMENTATION_METRICS, "false_discovery", entry)
    found = scores(*maps(), (1, 1, 1), metrics=["false_discovery"])
    assert found[3, "false_discovery"] == pytest.approx(1 / 8)


def test_docstring_examples_run() -> None:
    modules = [segmentation_scores, statistics, atlases, deformation, image, surface, table]
    for module in modules:
        result = doctest.testmod(module)
        assert result.attempted and not result.failed, module.__name__
