"""Auto-context fusion: candidates, features and classifiers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from autocontext_formula import Formula
from fusion_data import decided, random_atlases, trained_shortly, write_phantom_cohort
from second_device import DEVICE, SecondDevice, to_device
from torch import Tensor

from atlasmith.core.grid import Array
from atlasmith.fusion.aligned import AlignedAtlases
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
    feature_counts,
)
from atlasmith.fusion.autocontext.model import (
    MIN_SHARE,
    AutoContext,
    CandidateClassifier,
    classify,
)
from atlasmith.fusion.autocontext.training import train_autocontext
from atlasmith.fusion.propagated import ambiguous_voxels
from atlasmith.io.images import read_labels, write_image
from atlasmith.io.weights import read_network

RANDOM = np.random.default_rng(0)


def described(atlases: AlignedAtlases) -> tuple[Candidates, Tensor]:
    """The candidates of all voxels where atlases disagree, and their features."""
    candidates = find_candidates(atlases)
    return candidates, candidate_features(atlases, candidates)


def probability_of(candidates: Candidates, probabilities: Tensor, value: int) -> Array:
    """The probability (*shape) of a label, from those of the candidates (M, K)."""
    label_map = (candidates.agreed == value).float()
    rows, columns = torch.nonzero(candidates.labels == value, as_tuple=True)
    label_map.view(-1)[candidates.voxels[rows]] = probabilities[rows, columns]
    return label_map.numpy()


def atlases_of(shape: tuple[int, ...], kind: str) -> AlignedAtlases:
    """Atlases of one channel, of two, which not all atlases have, or with regions that are excluded."""
    atlases = random_atlases(RANDOM, shape, [0, 3, 9, 300])
    if kind == "channels":
        present = np.array([[1, 1, 1, 1, 1], [1, 0, 1, 1, 0]], bool)
        images, target = (torch.cat([x, x.abs() ** 2]) for x in (atlases.images, atlases.target))
        images[1, ~present[1]] = 0
        return replace(atlases, images=images, target=target, present=present)
    if kind == "excluded":
        valid, target_valid = torch.ones(5, *shape, dtype=torch.bool), torch.ones(shape, dtype=torch.bool)
        valid[1, 4:12] = valid[:, :2] = target_valid[:, 5:9] = False
        return replace(atlases, valid=valid, target_valid=target_valid)
    return atlases


@pytest.mark.parametrize("shape", [(30, 26), (14, 12, 13)])
@pytest.mark.parametrize("kind", ["plain", "channels", "excluded"])
def test_features_are_those_of_the_formula(shape: tuple[int, ...], kind: str) -> None:
    atlases = atlases_of(shape, kind)
    candidates, features = described(atlases)
    probabilities = torch.from_numpy(RANDOM.random(candidates.labels.shape, dtype=np.float32))
    probabilities *= candidates.labels >= 0
    probabilities /= probabilities.sum(dim=1, keepdim=True)
    context = context_features(atlases, candidates, probabilities)
    channels = len(atlases.target)
    assert (features.shape[-1], context.shape[-1]) == feature_counts(channels)
    formula = Formula(atlases)
    for value in (0, 3, 9, 300):
        rows, columns = torch.nonzero(candidates.labels == value, as_tuple=True)
        label_map = probability_of(candidates, probabilities, value)
        for found, wanted in (
            (features, formula.features(value)),
            (context, formula.context(label_map)),
        ):
            wanted = wanted.reshape(len(wanted), -1)[:, candidates.voxels[rows]].T
            np.testing.assert_allclose(found[rows, columns], wanted, rtol=3e-5, atol=1e-5, err_msg=str(value))
    assert (features[candidates.labels < 0] == 0).all() and (context[candidates.labels < 0] == 0).all()


@pytest.mark.parametrize("shape", [(30, 26), (14, 12, 13)])
def test_candidates_are_the_labels_with_the_most_votes(shape: tuple[int, ...]) -> None:
    atlases = random_atlases(RANDOM, shape, [0, 3, 9, 300])
    voxels = ambiguous_voxels(atlases)
    candidates, features = described(atlases)
    assert torch.equal(candidates.voxels, voxels) and features.isfinite().all()
    labels = atlases.labels.flatten(1)[:, voxels].numpy()
    for row in (0, 7, len(voxels) - 1):
        present = [label for label in candidates.labels[row].tolist() if label >= 0]
        assert sorted(present) == np.unique(labels[:, row]).tolist()
        votes = features[row, : len(present), 0]
        np.testing.assert_allclose(votes, [(labels[:, row] == x).mean() for x in present], rtol=1e-6)
        assert (votes.diff() <= 0).all()


def test_of_more_labels_than_candidates_a_tie_goes_to_the_smallest() -> None:
    """At the voxel on the left, which differs from the other in the order of the atlases alone."""
    labels = torch.tensor([7, 50, 3, 9, 2**31 - 1, 4, 0, 50, 8, 1])
    maps = torch.stack([labels, labels.flip(0)], dim=1).int()[..., None]
    atlases = AlignedAtlases(maps, torch.rand(1, 10, 2, 1), torch.rand(1, 2, 1))
    candidates, features = described(atlases)
    assert candidates.labels.tolist() == [[50, 0, 1, 3, 4, 7]] * 2
    assert features[:, 0, 0].tolist() == pytest.approx([0.2, 0.2])
    assert len(candidates.rows) == 18  # with the three labels that are no candidates
    shares = {value: share for value, _, share in candidate_probabilities(candidates, features[..., 0])}
    assert list(shares) == sorted(set(labels.tolist()))
    assert shares[8].sum() == 0 and shares[7].flatten().tolist() == pytest.approx([0.1, 0.1])


@pytest.mark.parametrize("shape", [(30, 26), (14, 12, 13)])
def test_features_depend_neither_on_the_order_of_atlases_nor_on_label_values(shape: tuple[int, ...]) -> None:
    atlases = random_atlases(RANDOM, shape, [0, 3, 9])
    candidates, features = described(atlases)
    order = RANDOM.permutation(len(atlases.labels))
    renamed = torch.where(atlases.labels == 9, 1000, atlases.labels)[order]
    other = replace(atlases, labels=renamed, images=atlases.images[:, order])
    others, other_features = described(other)
    for value, new in ((0, 0), (3, 3), (9, 1000)):
        np.testing.assert_allclose(
            other_features[others.labels == new], features[candidates.labels == value], atol=1e-4
        )


def test_an_untrained_classifier_decides_by_votes_and_probabilities_sum_to_1() -> None:
    atlases = random_atlases(RANDOM, (30, 26), [0, 3, 9])
    candidates, features = described(atlases)
    classifier = CandidateClassifier(3, 8)
    labels = label_positions(candidates.labels, torch.tensor([0, 3, 9], dtype=torch.int32))
    probabilities = classifier(features, labels).softmax(-1).detach()
    expected = torch.where(candidates.labels >= 0, features[..., :2].mean(-1) + MIN_SHARE, 0)
    torch.testing.assert_close(probabilities, expected / expected.sum(-1, keepdim=True), rtol=1e-4, atol=0)
    total = torch.zeros(30, 26)
    for value, box, probability in candidate_probabilities(candidates, probabilities):
        total[box] += probability
        agreed = (atlases.labels == value).all(0)
        assert (probability[agreed[box]] == 1).all()
        assert (probability[(atlases.labels != value).all(0)[box]] == 0).all()
    np.testing.assert_allclose(total, 1, atol=1e-5)


def test_a_label_unknown_in_training_is_no_candidate() -> None:
    positions = label_positions(torch.tensor([[0, 7, 9, -1, 10]]), torch.tensor([0, 7, 9]))
    assert positions.tolist() == [[0, 1, 2, -1, -1]]


def test_an_atlas_is_classified_by_the_classifier_trained_without_it() -> None:
    atlases = random_atlases(RANDOM, (30, 26), [0, 3, 9])
    candidates, features = described(atlases)
    network = AutoContext([0, 3, 9], 8, [["a"], ["b", "c"]]).requires_grad_(False).first
    for classifier in network.each:
        torch.nn.init.normal_(classifier.score.weight)
    inputs = [features], label_positions(candidates.labels, torch.tensor([0, 3, 9], dtype=torch.int32))
    first, second = (classify(classifier, *inputs) for classifier in network.each)
    assert not torch.allclose(first, second)
    for name, expected in (("a", first), ("c", second), ("new", (first + second) / 2)):
        each = [classify(classifier, *inputs) for classifier in network.for_subject(name)]
        np.testing.assert_allclose(torch.stack(each).mean(dim=0), expected, rtol=1e-5)


def test_a_new_subject_is_classified_by_all_pairs_of_classifiers() -> None:
    atlases = random_atlases(RANDOM, (30, 26), [0, 3, 9])
    network = AutoContext([0, 3, 9], 8, [["a"], ["b", "c"]]).requires_grad_(False)
    for classifier in (*network.first.each, *network.second.each):
        torch.nn.init.normal_(classifier.score.weight)
    found = (network.probabilities(atlases, name) for name in ("a", "b", "new"))
    for one, two, both in zip(*found, strict=True):
        assert one[:2] == two[:2] == both[:2]
        np.testing.assert_allclose(both[2], (one[2] + two[2]) / 2, atol=1e-6)


def test_an_untrained_second_pass_gives_the_mean_of_the_first_there_and_around() -> None:
    atlases = random_atlases(RANDOM, (30, 26), [0, 3, 9])
    network = AutoContext([0, 3, 9], 8, [["a"], ["b"]]).requires_grad_(False)
    candidates, features = described(atlases)
    labels = label_positions(candidates.labels, network.values)
    first = classify(network.first.each[0], [features], labels)
    context = context_features(atlases, candidates, first)
    expected = torch.where(candidates.labels >= 0, context[..., :2].mean(-1) + MIN_SHARE, 0)
    expected /= expected.sum(-1, keepdim=True)
    known = candidate_probabilities(candidates, expected)
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
    one = random_atlases(RANDOM, (9, 8), [0, 3, 9], atlases=1)
    for count in (1, 4):
        atlases = replace(
            one, labels=one.labels.repeat(count, 1, 1), images=one.images.repeat(1, count, 1, 1)
        )
        candidates, features = described(atlases)
        assert features.shape == (0, MAX_CANDIDATES, FEATURES)
        none = torch.zeros(candidates.labels.shape)
        assert context_features(atlases, candidates, none).shape == (0, MAX_CANDIDATES, CONTEXT_FEATURES)
        fused, confidence = decided(candidate_probabilities(candidates, none), (9, 8))
        np.testing.assert_array_equal(fused, one.labels[0])
        assert (confidence == 1).all()


def test_auto_context_waits_for_an_image_and_not_for_its_labels(second_device: SecondDevice) -> None:
    counts = []
    for values in ([0, 3, 9], list(range(0, 60, 5))):
        atlases = random_atlases(RANDOM, (14, 15, 16), values)
        network = AutoContext(values, 8, [["a"], ["b"]]).requires_grad_(False)
        expected = list(network.probabilities(atlases, "new"))
        parts = {name: to_device(getattr(atlases, name)) for name in ("labels", "images", "target")}
        network.to(DEVICE)
        second_device.clear()
        found = list(network.probabilities(replace(atlases, **parts), "new"))
        counts.append(second_device.waits.total())
        for (value, box, own), (*same, other) in zip(expected, found, strict=True):
            assert same == [value, box]
            torch.testing.assert_close(other.cpu(), own, atol=1e-5, rtol=0)
    # In each pass of each classifier it asks for the voxels of each number of candidates.
    assert counts[0] < 40 and counts[1] <= counts[0] + 4 * 3, second_device.waits
