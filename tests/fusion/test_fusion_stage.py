"""The fuse stage: training of all networks, and fusion of subjects."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fusion_data import fused_dice, tensors, trained_shortly, with_fusion, write_phantom_cohort

from atlasmith.config import Config
from atlasmith.core.errors import AtlasmithError
from atlasmith.core.grid import Grid
from atlasmith.fusion import fuse_subject, train_fusers
from atlasmith.fusion.propagated import PropagatedAtlases, manual_labels, read_propagated
from atlasmith.fusion.uncertainty import COMPONENTS
from atlasmith.fusion.votenet.prediction import read_predictor
from atlasmith.io.files import read_json
from atlasmith.io.images import read_grid, read_image, read_labels
from atlasmith.io.tables import Subject, read_cohort, read_tsv
from atlasmith.propagation import propagate_subject

RANDOM = np.random.default_rng(0)


def test_networks_find_the_half_in_which_an_atlas_is_reliable(tmp_path: Path) -> None:
    config = write_phantom_cohort(tmp_path)
    train_fusers(config)
    for network in ("votenet", "autocontext"):
        rows = read_tsv(config.layout.fuser_training(network))
        assert sum(row["validation"] != "n/a" for row in rows) >= 5
    mean = fused_dice(config)
    assert mean["votenet"] > mean["majority"] + 0.03
    assert mean["votenet_hard"] > mean["majority"] + 0.03
    assert mean["autocontext"] > mean["majority"] + 0.05


def test_three_atlases_are_enough_for_training(tmp_path: Path) -> None:
    # Each of them gets two votes, a target three: shares of votes that training has none of.
    config = with_fusion(write_phantom_cohort(tmp_path, atlases=3), methods=["majority", "autocontext"])
    train_fusers(config)
    right: dict[str, list[float]] = {method: [] for method in config.fusion.methods}
    for subject in read_cohort(config.layout.cohort)[3:]:
        fuse_subject(config, subject.id)
        truth = read_labels(subject.labels).data
        for method in right:
            right[method].append(
                np.mean(read_labels(config.layout.segmentation(subject.id, method)).data == truth)
            )
    assert np.mean(right["autocontext"]) > np.mean(right["majority"]) + 0.04


def test_votenet_with_all_optional_inputs(tmp_path: Path) -> None:
    """Boundaries, two scales, a local temperature; and a correlation of every two atlases."""
    config = write_phantom_cohort(tmp_path)
    options = {"boundary": True, "scales": 2, "calibration": "local_temperature", "steps": 100}
    votenet = config.fusion.section("votenet").model_copy(update=options)
    config = with_fusion(config, methods=["majority", "votenet_joint"], votenet=votenet)
    train_fusers(config)
    subject = read_cohort(config.layout.cohort)[8]
    fuse_subject(config, subject.id)
    truth = read_labels(subject.labels).data
    right = {
        method: np.mean(read_labels(config.layout.segmentation(subject.id, method)).data == truth)
        for method in config.fusion.methods
    }
    assert right["votenet_joint"] > right["majority"] + 0.01
    predict = read_predictor(config.layout.fuser_weights("votenet"), "cpu")
    atlases = read_propagated(config.layout, subject)
    correlation = predict(atlases, subject.id).correlation
    assert correlation.shape == (8, 8) and (np.diag(correlation) == 1).all()
    np.testing.assert_allclose(correlation, correlation.T, atol=1e-5)
    assert 0 < np.abs(correlation[~np.eye(8, dtype=bool)]).max() < 1
    with pytest.raises(AtlasmithError, match="unknown-atlas"):
        _ = predict(replace(atlases, ids=["unknown-atlas"]), subject.id).correlation


def test_the_same_seed_gives_the_same_networks(tmp_path: Path) -> None:
    config = trained_shortly(write_phantom_cohort(tmp_path))
    weights = []
    for _ in range(2):
        train_fusers(config)
        weights.append([config.layout.fuser_weights(n).read_bytes() for n in config.fusion.networks])
    assert weights[0] == weights[1]


def test_training_may_not_read_a_targets_labels(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no atlas"):
        manual_labels(Subject("x", "target", tmp_path, tmp_path), Grid((4, 4, 4), np.eye(4)))


def test_the_stage_on_the_toy_cohort(toy_registered: Config) -> None:
    """Fused in the target's own grid and orientation, with volumes that add up; no worse than majority."""
    layout = toy_registered.layout
    for subject in read_cohort(layout.cohort):
        if subject.role != "train":
            propagate_subject(toy_registered, subject.id)
    train_fusers(toy_registered)
    target = next(s for s in read_cohort(layout.cohort) if s.id == "09")
    fuse_subject(with_fusion(toy_registered, uncertainty=True), "09")
    truth = read_labels(target.labels).data
    dice = {}
    for method in toy_registered.fusion.methods:
        segmentation = read_labels(layout.segmentation("09", method))
        assert segmentation.grid.same_as(read_grid(target.image))
        assert set(np.unique(segmentation.data)) == {0, 4, 1000}
        rows = read_tsv(layout.volumes("09", method))
        for row in rows:
            volume = (segmentation.data == int(row["index"])).sum() * 1.5
            assert float(row["volume_mm3"]) == pytest.approx(volume, rel=1e-4)
        confidence = read_image(layout.confidence("09", method)).data
        assert confidence.min() > 0 and confidence.max() <= 1.0001
        maps = read_image(layout.uncertainty("09", method)).data
        assert maps.shape == (*confidence.shape, 3) and maps.min() >= 0
        certain = confidence > 0.999
        assert (maps[certain, 0] < 0.05).all() and (maps[~certain].max(axis=0) > 0).all()
        assert list(read_json(layout.segmentation_sidecar("09", method))["Uncertainty"]) == list(COMPONENTS)
        both = [(segmentation.data == k, truth == k) for k in (4, 1000)]
        dice[method] = np.mean([2 * (a & b).sum() / (a.sum() + b.sum()) for a, b in both])
    assert min(dice.values()) > 0.85
    assert min(dice["votenet"], dice["autocontext"]) > dice["majority"] - 0.02


def test_reliability_is_a_probability_for_every_atlas(toy_registered: Config) -> None:
    weights = toy_registered.layout.fuser_weights("votenet")
    if not weights.exists():
        pytest.skip("runs after the stage's test")
    shape = (20, 18)
    maps = tensors(
        RANDOM.integers(0, 2, (5, *shape)).astype(np.int32),
        RANDOM.random((1, 5, *shape)).astype(np.float32),
        RANDOM.random((1, *shape)).astype(np.float32),
    )
    atlases = PropagatedAtlases(**maps, grid=Grid((*shape, 1), np.eye(4)))
    reliability = read_predictor(weights, "cpu")(atlases, "x").reliability
    assert reliability.shape == (5, *shape) and reliability.min() >= 0 and reliability.max() <= 1
