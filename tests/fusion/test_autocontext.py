"""Auto-context fusion: candidates, features and classifiers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from fusion_data import random_atlases, trained_shortly, write_phantom_cohort
from scipy.ndimage import uniform_filter

from atlasmith.core.grid import Array, Grid
from atlasmith.fusion.autocontext.candidates import (
    MAX_CANDIDATES,
    Candidates,
    candidate_probabilities,
    find_candidates,
    label_positions,
)
from atlasmith.fusion.autocontext.features import (
    CONTEXT_FEATURES,
    FEATURES,
    candidate_features,
    context_features,
)
from atlasmith.fusion.autocontext.model import (
    MIN_SHARE,
    AutoContext,
    CandidateClassifier,
    classify,
)
from atlasmith.fusion.autocontext.training import train_autocontext
from atlasmith.fusion.probabilities import most_probable_labels
from atlasmith.fusion.propagated import PropagatedAtlases, ambiguous_voxels
from atlasmith.io.images import read_labels, write_image
from atlasmith.io.weights import read_network

RANDOM = np.random.default_rng(0)


def described(atlases: PropagatedAtlases) -> tuple[Candidates, Array]:
    """The candidates of all voxels where atlases disagree, and their features."""
    candidates = find_candidates(atlases, ambiguous_voxels(atlases))
    return candidates, candidate_features(atlases, candidates)


@pytest.mark.parametrize("shape", [(30, 26), (14, 12, 13)])
def test_features_of_a_few_voxels_are_those_of_all(shape: tuple[int, ...]) -> None:
    atlases = random_atlases(RANDOM, shape, [0, 3, 9, 300])
    voxels = ambiguous_voxels(atlases)
    candidates, features = described(atlases)
    assert np.isfinite(features).all()
    shares = np.stack([(atlases.labels == value).mean(0).ravel()[voxels] for value in (0, 3, 9, 300)], -1)
    for row in (0, 7, len(voxels) - 1):
        present = [label for label in candidates.labels[row] if label >= 0]
        assert sorted(present) == [v for v, s in zip((0, 3, 9, 300), shares[row], strict=True) if s > 0]
        votes = features[row, : len(present), 0]
        assert (np.diff(votes) <= 0).all() and votes.sum() == pytest.approx(1, abs=1e-6)
    some = find_candidates(atlases, voxels[5:40:3])
    np.testing.assert_array_equal(some.labels, candidates.labels[5:40:3])
    np.testing.assert_allclose(candidate_features(atlases, some), features[5:40:3], atol=1e-6)


@pytest.mark.parametrize("shape", [(30, 26), (14, 12, 13)])
def test_features_depend_neither_on_the_order_of_atlases_nor_on_label_values(shape: tuple[int, ...]) -> None:
    atlases = random_atlases(RANDOM, shape, [0, 3, 9])
    candidates, features = described(atlases)
    order = RANDOM.permutation(len(atlases.labels))
    renamed = np.where(atlases.labels == 9, 1000, atlases.labels)[order]
    other = PropagatedAtlases(renamed, atlases.images[:, order], atlases.target, atlases.grid)
    others, other_features = described(other)
    for value, new in ((0, 0), (3, 3), (9, 1000)):
        np.testing.assert_allclose(
            other_features[others.labels == new], features[candidates.labels == value], atol=1e-4
        )


def test_an_untrained_classifier_decides_by_votes_and_probabilities_sum_to_1() -> None:
    atlases = random_atlases(RANDOM, (30, 26), [0, 3, 9])
    candidates, features = described(atlases)
    classifier = CandidateClassifier(3, 8)
    labels = torch.from_numpy(label_positions(candidates.labels, np.array([0, 3, 9])))
    probabilities = classifier(torch.from_numpy(features), labels).softmax(-1).detach().numpy()
    expected = np.where(candidates.labels >= 0, features[..., :2].mean(-1) + MIN_SHARE, 0)
    np.testing.assert_allclose(probabilities, expected / expected.sum(-1, keepdims=True), rtol=1e-4)
    total = np.zeros((30, 26))
    for value, box, probability in candidate_probabilities(atlases, candidates, probabilities):
        total[box] += probability
        agreed = (atlases.labels == value).all(0)
        assert (probability[agreed[box]] == 1).all()
        assert (probability[(atlases.labels != value).all(0)[box]] == 0).all()
    np.testing.assert_allclose(total, 1, atol=1e-5)


def test_a_label_unknown_in_training_is_no_candidate() -> None:
    np.testing.assert_array_equal(
        label_positions(np.array([[0, 7, 9, -1, 10]]), np.array([0, 7, 9])), [[0, 1, 2, -1, -1]]
    )


def test_an_atlas_is_classified_by_the_classifier_trained_without_it() -> None:
    atlases = random_atlases(RANDOM, (30, 26), [0, 3, 9])
    candidates, features = described(atlases)
    network = AutoContext([0, 3, 9], 8, [["a"], ["b", "c"]]).requires_grad_(False).first
    for classifier in network.each:
        torch.nn.init.normal_(classifier.score.weight)
    labels = torch.from_numpy(label_positions(candidates.labels, np.array([0, 3, 9])))
    inputs = torch.from_numpy(features), labels
    first, second = (classify(classifier, *inputs) for classifier in network.each)
    assert not np.allclose(first, second)
    for name, expected in (("a", first), ("c", second), ("new", (first + second) / 2)):
        found = np.mean([classify(classifier, *inputs) for classifier in network.for_subject(name)], axis=0)
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_new_subject_is_classified_by_all_pairs_of_classifiers() -> None:
    atlases = random_atlases(RANDOM, (30, 26), [0, 3, 9])
    network = AutoContext([0, 3, 9], 8, [["a"], ["b", "c"]]).requires_grad_(False)
    for classifier in (*network.first.each, *network.second.each):
        torch.nn.init.normal_(classifier.score.weight)
    found = (network.probabilities(atlases, name) for name in ("a", "b", "new"))
    for one, two, both in zip(*found, strict=True):
        assert one[:2] == two[:2] == both[:2]
        np.testing.assert_allclose(both[2], (one[2] + two[2]) / 2, atol=1e-6)


@pytest.mark.parametrize("shape", [(30, 26), (14, 12, 13)])
def test_context_features_are_of_the_first_pass(shape: tuple[int, ...]) -> None:
    atlases = random_atlases(RANDOM, shape, [0, 3, 9])
    candidates, _ = described(atlases)
    probabilities = np.where(candidates.labels >= 0, RANDOM.random(candidates.labels.shape), 0)
    probabilities = probabilities.astype(np.float32)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    context = context_features(atlases, candidates, probabilities)
    assert context.shape == (*probabilities.shape, CONTEXT_FEATURES) and np.isfinite(context).all()
    np.testing.assert_allclose(context[..., 0], probabilities)
    for value in (0, 3, 9):
        label_map = (atlases.labels == value).all(axis=0).astype(np.float32)
        own = np.where(candidates.labels == value, probabilities, 0).sum(axis=1)
        label_map.ravel()[candidates.voxels] = own
        around = uniform_filter(label_map, 3, mode="nearest").ravel()[candidates.voxels]
        rows, columns = np.nonzero(candidates.labels == value)
        np.testing.assert_allclose(context[rows, columns, 1], around[rows], atol=1e-5)


def test_an_untrained_second_pass_gives_the_mean_of_the_first_there_and_around() -> None:
    atlases = random_atlases(RANDOM, (30, 26), [0, 3, 9])
    network = AutoContext([0, 3, 9], 8, [["a"], ["b"]]).requires_grad_(False)
    candidates, features = described(atlases)
    labels = torch.from_numpy(label_positions(candidates.labels, network.values))
    first = classify(network.first.each[0], torch.from_numpy(features), labels)
    context = context_features(atlases, candidates, first)
    expected = np.where(candidates.labels >= 0, context[..., :2].mean(-1) + MIN_SHARE, 0)
    expected /= expected.sum(-1, keepdims=True)
    known = candidate_probabilities(atlases, candidates, expected)
    for found, wanted in zip(network.probabilities(atlases, "new"), known, strict=True):
        assert found[:2] == wanted[:2]
        np.testing.assert_allclose(found[2], wanted[2], atol=1e-5)


def test_a_classifier_is_trained_without_the_atlases_it_leaves_out(tmp_path: Path) -> None:
    config = trained_shortly(write_phantom_cohort(tmp_path))
    networks = []
    for displaced in (False, True):
        if displaced:
            for name in ("00", "03", "06"):  # the first of three classifiers is trained without these
                path = tmp_path / f"{name}_dseg.nii.gz"
                labels = read_labels(path)
                write_image(path, np.roll(labels.data, 9, axis=0), labels.grid)
        train_autocontext(config)
        networks.append(read_network(config.layout.fuser_weights("autocontext"), AutoContext))
    for name in ("first", "second"):
        plain, other = (getattr(network, name) for network in networks)
        assert plain.without[0] == {"00", "03", "06"}
        before, after = (classifiers.each[0].state_dict() for classifiers in (plain, other))
        assert all(torch.equal(before[key], after[key]) for key in before)
        assert not torch.equal(plain.each[1].encode.weight, other.each[1].encode.weight)


def test_where_all_atlases_agree_there_are_no_candidates() -> None:
    labels = np.repeat(RANDOM.integers(0, 3, (1, 9, 8)).astype(np.int32), 4, axis=0)
    images, target = np.zeros((1, *labels.shape), np.float32), np.zeros((1, 9, 8))
    atlases = PropagatedAtlases(labels, images, target, Grid((9, 8, 1), np.eye(4)))
    candidates, features = described(atlases)
    assert features.shape == (0, MAX_CANDIDATES, FEATURES)
    fused, confidence = most_probable_labels(
        candidate_probabilities(atlases, candidates, np.zeros(candidates.labels.shape)), (9, 8)
    )
    np.testing.assert_array_equal(fused, labels[0])
    assert (confidence == 1).all()
