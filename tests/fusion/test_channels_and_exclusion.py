"""Fusion of several channels, of which some may be absent, and with excluded regions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from fusion_data import aligned, decided, displaced_atlases, random_atlases
from scipy.ndimage import uniform_filter

from atlasmith.core.grid import Array
from atlasmith.fusion import fuse
from atlasmith.fusion.aligned import AlignedAtlases
from atlasmith.fusion.autocontext.candidates import find_candidates
from atlasmith.fusion.autocontext.features import candidate_features, context_features, feature_counts
from atlasmith.fusion.autocontext.model import AutoContext
from atlasmith.fusion.fuser import FusionInputs
from atlasmith.fusion.jlf.patch_votes import joint_weights
from atlasmith.fusion.patches import PATCH, patch_distances
from atlasmith.fusion.table import FUSERS
from atlasmith.fusion.uncertainty import registration_residual
from atlasmith.fusion.votenet.network import VoteNet, agreement, input_channels
from atlasmith.fusion.votenet.prediction import Prediction

SHAPES = [(26, 24), (15, 14, 13)]
SIMILARITY = ["local_weighted", "local_selection", "jlf"]  # methods whose weights follow intensities
UNTRAINED = [name for name, fuser in FUSERS.items() if not fuser.is_trained]


def planted(shape: tuple[int, ...]) -> tuple[Array, Array, Array]:
    """Two atlases of five are right, which the second channel alone tells: labels, images and target."""
    random = np.random.default_rng(0)
    target = random.random((2, *shape)).astype(np.float32)
    images = np.repeat(target[:, None], 5, axis=1)  # the first channel of all is the target's
    images[1, 2:] = random.random((3, *shape))
    labels = np.full((5, *shape), 3, np.int32)
    labels[:2] = 7
    return labels, images, target


def fused(method: str, atlases: AlignedAtlases) -> tuple[Array, Array]:
    """Labels and confidence of a method that needs no training, in which a few atlases may be selected."""
    settings = {"atlases": 2} if method == "local_selection" else {}
    inputs = FusionInputs.of(atlases, FUSERS[method].settings_type(**settings))
    return decided(FUSERS[method](inputs), atlases.labels.shape[1:])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("method", SIMILARITY)
def test_weights_follow_the_channel_that_tells_right_from_wrong(method: str, shape: tuple[int, ...]) -> None:
    labels, images, target = planted(shape)
    settings = {"atlases": 2} if method == "local_selection" else {}
    assert (fuse(labels, images[:1], target[:1], method, **settings).labels == 3).all()
    assert (fuse(labels, images, target, method, **settings).labels == 7).all()
    assert (fuse(labels, images[1], target[1], method, **settings).labels == 7).all()
    swapped = fuse(labels, images[::-1], target[::-1], method, **settings)
    found = fuse(labels, images, target, method, **settings)
    np.testing.assert_array_equal(swapped.labels, found.labels)
    np.testing.assert_allclose(swapped.confidence, found.confidence, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_distances_are_means_over_channels(shape: tuple[int, ...]) -> None:
    labels, images, target = planted(shape)
    squares = np.stack(
        [[uniform_filter(np.square(i - t), PATCH) for i in c] for c, t in zip(images, target, strict=True)]
    )
    # The stack of the means of one channel, as they are for images of one channel.
    one = patch_distances(aligned(labels, images[1:], target[1:]))
    np.testing.assert_allclose(one, squares[1], rtol=1e-6, atol=1e-9)
    present = np.array([[1, 0, 1, 1, 0], [1, 1, 1, 0, 0]], bool)
    found = patch_distances(aligned(labels, images, target, present=present))
    # A channel that an atlas doesn't have counts as the mean of the others.
    first, second = squares[0][present[0]].mean(0), squares[1][present[1]].mean(0)
    pairs = [(0, squares[0, 0], squares[1, 0]), (1, first, squares[1, 1]), (3, squares[0, 3], second)]
    for atlas, *channels in [*pairs, (4, first, second)]:
        np.testing.assert_allclose(found[atlas], np.mean(channels, axis=0), atol=1e-6)
    none = patch_distances(aligned(labels, images, target, present=np.zeros((2, 5), bool)))
    assert (none == 0).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_one_channel_is_weighted_as_images_without_channels(shape: tuple[int, ...]) -> None:
    """To rounding: exp(-(d - h) / h) of the distances d of one image."""
    target, _, images, labels = displaced_atlases(shape, 5, 2)
    distances = np.stack([uniform_filter(np.square(image - target), PATCH) for image in images])
    best = distances.min(axis=0)
    weights = np.exp(-(distances - best) / (best + 1e-4)).astype(np.float32)
    share = {
        value: np.where(labels == value, weights, 0).sum(axis=0) / weights.sum(axis=0)
        for value in np.unique(labels)
    }
    found = fuse(labels, images, target, "local_weighted")
    stacked = np.stack(list(share.values()))
    np.testing.assert_array_equal(found.labels, np.unique(labels)[stacked.argmax(axis=0)])
    np.testing.assert_allclose(found.confidence, stacked.max(axis=0), rtol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("method", SIMILARITY)
def test_a_channel_that_is_absent_everywhere_changes_nothing(method: str, shape: tuple[int, ...]) -> None:
    target, _, images, labels = displaced_atlases(shape, 5, 2)
    plain = fused(method, aligned(labels, images[None], target[None]))
    with_absent = aligned(
        labels,
        np.stack([images, np.zeros_like(images)]),
        np.stack([target, np.zeros_like(target)]),
        present=np.array([[True] * 5, [False] * 5]),
    )
    found = fused(method, with_absent)
    np.testing.assert_array_equal(found[0], plain[0])
    np.testing.assert_allclose(found[1], plain[1], atol=1e-5)


def test_joint_weights_are_means_over_what_is_known_of_both() -> None:
    errors = torch.rand(3, 4, 2, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    known = (torch.rand(3, 4, 2, 9, generator=torch.Generator().manual_seed(1)) > 0.3).double()
    found = joint_weights(errors * known, 0.1, 2.0, known)
    for v in range(3):
        joint = np.zeros((4, 4))
        for i in range(4):
            for j in range(4):
                both = (known[v, i] * known[v, j]).bool()
                joint[i, j] = (errors[v, i] * errors[v, j])[both].mean() * 9 / 8
        weights = np.maximum(np.linalg.solve(joint**2 + 0.1 * np.eye(4), np.ones(4)), 0)
        np.testing.assert_allclose(found[v], weights / weights.sum(), atol=1e-10)
    everything = joint_weights(errors, 0.1, 2.0, torch.ones_like(errors))
    torch.testing.assert_close(everything, joint_weights(errors, 0.1, 2.0))


@pytest.mark.parametrize("method", SIMILARITY[::2])
def test_an_atlas_without_a_channel_is_neither_favored_nor_disfavored(method: str) -> None:
    """The second channel has more noise: an atlas with the first alone has no larger weight for that."""
    random = np.random.default_rng(0)
    target = random.random((2, 30, 30)).astype(np.float32)
    noise = np.array([0.05, 0.4])[:, None, None, None]
    images = (target[:, None] + noise * random.normal(size=(2, 6, 30, 30))).astype(np.float32)
    labels = np.arange(6)[:, None, None].repeat(30, axis=1).repeat(30, axis=2).astype(np.int32)
    present = np.ones((2, 6), bool)
    for channel in range(2):
        without = present.copy()
        without[channel, 5] = False
        images_without = np.where(without[..., None, None], images, 0)
        atlases = aligned(labels, images_without, target, present=without)
        inputs = FusionInputs.of(atlases, FUSERS[method].settings_type())
        shares = [share.mean() for _, _, share in FUSERS[method](inputs)]
        assert np.mean(shares[:5]) * 0.6 < shares[5] < np.mean(shares[:5]) * 1.5


def lesion(shape: tuple[int, ...], start: int = 5, size: int = 5) -> tuple[slice, ...]:
    return tuple(slice(start, start + size) for _ in shape)


def far_from(box: tuple[slice, ...], shape: tuple[int, ...], radius: int) -> Array:
    """The voxels more than `radius` away from a box along an axis."""
    far = np.ones(shape, bool)
    far[tuple(slice(max(s.start - radius, 0), s.stop + radius) for s in box)] = False
    return far


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("method", UNTRAINED)
def test_an_atlas_has_no_vote_in_its_excluded_region(method: str, shape: tuple[int, ...]) -> None:
    """Without its best atlas the lesion is as if the atlas weren't there, and far away nothing changes."""
    target, _, images, labels = displaced_atlases(shape, 5, 2)
    images[0] = target  # the best atlas
    box = lesion(shape)
    labels[0][box] = 99
    valid = np.ones(labels.shape, bool)
    valid[0][box] = False
    atlases = aligned(labels, images[None], target[None], valid=valid)
    found, confidence = fused(method, atlases)
    assert (found != 99).all()
    if method != "staple":  # which estimates one confusion matrix of all voxels
        far = far_from(box, shape, 2 * 2 + 3 if method == "jlf" else PATCH // 2)
        plain = fused(method, aligned(labels, images[None], target[None]))
        np.testing.assert_array_equal(found[far], plain[0][far])
        np.testing.assert_allclose(confidence[far], plain[1][far], atol=1e-5)
    if method == "majority":
        inner = fused("majority", aligned(labels[1:], images[None, 1:], target[None]))
        np.testing.assert_array_equal(found[box], inner[0][box])
        np.testing.assert_allclose(confidence[box], inner[1][box], atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("method", UNTRAINED)
def test_what_lies_in_an_excluded_region_is_not_used(method: str, shape: tuple[int, ...]) -> None:
    target, _, images, labels = displaced_atlases(shape, 5, 2)
    box, results = lesion(shape), []
    valid, target_valid = np.ones(labels.shape, bool), np.ones(shape, bool)
    valid[0][box] = target_valid[lesion(shape, 3, 4)] = False
    for value in (0, 1):
        labels[0][box] = 90 + value
        results.append(
            fused(
                method,
                aligned(labels, images[None], target[None], valid=valid, target_valid=target_valid),
            )
        )
    np.testing.assert_array_equal(results[0][0], results[1][0])
    np.testing.assert_allclose(results[0][1], results[1][1], atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("method", SIMILARITY)
def test_where_the_target_is_excluded_the_majority_decides(method: str, shape: tuple[int, ...]) -> None:
    target, _, images, labels = displaced_atlases(shape, 5, 2)
    box, target_valid = lesion(shape), np.ones(shape, bool)
    target_valid[box] = False
    atlases = aligned(labels, images[None], target[None], target_valid=target_valid)
    found, confidence = fused(method, atlases)
    majority = fused("majority", atlases)
    np.testing.assert_array_equal(found[box], majority[0][box])
    np.testing.assert_allclose(confidence[box], majority[1][box], atol=1e-6)
    plain = fused(method, replace(atlases, target_valid=None))
    assert not np.array_equal(plain[1][box], confidence[box])
    far = far_from(box, shape, 2 * 2 + 3 if method == "jlf" else PATCH // 2)
    np.testing.assert_array_equal(found[far], plain[0][far])
    np.testing.assert_allclose(confidence[far], plain[1][far], atol=1e-5)


@pytest.mark.parametrize("method", SIMILARITY)
def test_intensities_of_excluded_voxels_have_no_weight_beside_them(method: str) -> None:
    """Right beside a lesion of the target, whose intensities are those of the wrong atlases."""
    labels, images, target = planted((26, 24))
    images, target = images[1:].copy(), target[1:].copy()
    target_valid = np.ones((26, 24), bool)
    target_valid[8:13, 8:13] = False
    target[0][~target_valid] = images[0, 2][~target_valid]
    images[0, 3:] = images[0, 2]
    atlases = aligned(labels, images, target, target_valid=target_valid)
    found, _ = fused(method, atlases)
    assert (found[target_valid] == 7).all() and (found[~target_valid] == 3).all()


@pytest.mark.parametrize("method", UNTRAINED)
def test_where_all_atlases_are_excluded_all_have_a_vote(method: str) -> None:
    target, _, images, labels = displaced_atlases((26, 24), 5, 2)
    box = lesion((26, 24))
    valid = np.ones(labels.shape, bool)
    valid[:, *box] = False
    found, confidence = fused(method, aligned(labels, images[None], target[None], valid=valid))
    if method == "staple":
        plain = fused(method, aligned(labels, images[None], target[None]))
        np.testing.assert_array_equal(found, plain[0])
    else:
        majority = fused("majority", aligned(labels, images[None], target[None]))
        np.testing.assert_array_equal(found[box], majority[0][box])
        np.testing.assert_allclose(confidence[box], majority[1][box], atol=1e-6)


def test_masks_where_nothing_is_excluded_change_nothing() -> None:
    target, _, images, labels = displaced_atlases((26, 24), 5, 2)
    for method in UNTRAINED:
        everywhere = {"valid": np.ones(labels.shape, bool), "target_valid": np.ones((26, 24), bool)}
        masked = fuse(labels, images, target, method, **everywhere)
        plain = fuse(labels, images, target, method)
        np.testing.assert_array_equal(masked.labels, plain.labels)
        np.testing.assert_allclose(masked.confidence, plain.confidence, atol=1e-5)


def test_staple_leaves_out_missing_votes() -> None:
    """Two atlases are always right, one always wrong; where one of the two has no vote, the others decide."""
    truth = np.random.default_rng(0).integers(0, 2, (20, 20)).astype(np.int32)
    labels = np.stack([truth, truth, 1 - truth])
    valid = np.ones(labels.shape, bool)
    valid[0, :10] = valid[2, 10:] = False
    found = fuse(labels, method="staple", valid=valid)
    np.testing.assert_array_equal(found.labels, truth)
    more = 10 * np.arange(20)  # by column: 40 labels, which are candidates where they have votes alone
    many = fuse(labels + more, method="staple", valid=valid)
    np.testing.assert_array_equal(many.labels, truth + more)


def with_channels(shape: tuple[int, ...], channels: int) -> AlignedAtlases:
    """Random atlases whose further channels have other contrasts."""
    atlases = random_atlases(np.random.default_rng(4), shape, [0, 3, 9])
    powers = range(1, channels + 1)
    return replace(
        atlases,
        images=torch.cat([atlases.images.abs() ** p for p in powers]),
        target=torch.cat([atlases.target.abs() ** p for p in powers]),
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_autocontext_computes_intensity_features_of_each_channel(shape: tuple[int, ...]) -> None:
    one, two = with_channels(shape, 1), with_channels(shape, 2)
    candidates = find_candidates(one)
    probabilities = torch.full(candidates.labels.shape, 1 / 6)
    for compute, which in ((candidate_features, 0), (lambda a, c: context_features(a, c, probabilities), 1)):
        own, both = compute(one, candidates), compute(two, candidates)
        assert both.shape[-1] == feature_counts(2)[which] and np.isfinite(both).all()
        second = compute(replace(two, images=two.images[1:], target=two.target[1:]), candidates)
        # The features that depend on one channel alone are among those of both.
        columns = [slice(6, 8), slice(15, 16)] if which == 0 else [slice(4, 9)]
        for features in (own, second):
            for index in (k for s in columns for k in range(s.start, s.stop)):
                same = np.isclose(both, features[..., index, None], atol=1e-5).all(axis=(0, 1))
                assert same.any(), (which, index)


def test_autocontext_without_the_region_that_is_excluded() -> None:
    """Where the target is excluded votes decide, and excluded labels have none."""
    atlases, box = with_channels((30, 26), 2), lesion((30, 26), 8, 8)
    target_valid = torch.ones(30, 26, dtype=torch.bool)
    target_valid[box] = False
    valid = torch.ones(atlases.labels.shape, dtype=torch.bool)
    valid[1, 12:20] = False
    atlases = replace(atlases, target_valid=target_valid, valid=valid)
    labels = atlases.labels.clone()
    labels[1, 12:20] = 3
    network = AutoContext([0, 3, 9], 8, [["a"], ["b"]], channels=2).requires_grad_(False)
    for classifier in (*network.first.each, *network.second.each):
        torch.nn.init.normal_(classifier.score.weight)
    found, confidence = decided(network.probabilities(atlases, "new"), (30, 26))
    majority = fused("majority", atlases)
    np.testing.assert_array_equal(found[box], majority[0][box])
    np.testing.assert_allclose(confidence[box], majority[1][box], atol=1e-6)
    other = decided(network.probabilities(replace(atlases, labels=labels), "new"), (30, 26))
    np.testing.assert_array_equal(other[0], found)
    np.testing.assert_allclose(other[1], confidence, atol=1e-5)


def test_votenet_reads_every_channel_and_counts_only_votes() -> None:
    atlases = with_channels((24, 22), 2)
    network = VoteNet(2, [8, 16], True, 2, "platt", [0, 3, 9], "abcde", image_channels=2).eval()
    labels, images, target = atlases.labels, atlases.images, atlases.target
    inputs = input_channels(target, images, labels, agreement(labels), **network.input_options)
    for channel, (own, others) in enumerate(zip(target, images, strict=True)):
        torch.testing.assert_close(inputs[:, 2 * channel], own.expand_as(others))
        torch.testing.assert_close(inputs[:, 2 * channel + 1], others)
    valid = torch.ones(atlases.labels.shape, dtype=torch.bool)
    valid[0, :9] = False
    counted, others = agreement(labels, votes=valid), agreement(labels[1:])
    torch.testing.assert_close(counted[1:, :9], others[:, :9])
    torch.testing.assert_close(counted[:, 9:], agreement(labels)[:, 9:])
    excluding = replace(atlases, valid=valid, ids=list("abcde"))
    prediction = Prediction(None, network, excluding, "new")  # type: ignore[arg-type]
    for name, fuser in FUSERS.items():
        if fuser.section == "votenet":
            inputs_of = FusionInputs.of(excluding, fuser.settings_type(), lambda: prediction)
            shares = {v: (box, share) for v, box, share in fuser(inputs_of)}
            lone = torch.zeros(24, 22)
            for box, share in shares.values():
                lone[box] += share
            np.testing.assert_allclose(lone, 1, atol=1e-5, err_msg=name)
            alone = (atlases.labels[0] != atlases.labels[1:]).all(dim=0) & ~valid[0]
            for value, (box, share) in shares.items():
                assert (share[(alone & (atlases.labels[0] == value))[box]] == 0).all(), name


def test_the_registration_residual_is_that_of_the_votes() -> None:
    labels = np.zeros((3, 8, 8), np.int32)
    images = np.stack([np.full((8, 8), value, np.float32) for value in (0.5, 0.7, 0.9)])[None]
    target, valid = np.full((1, 8, 8), 0.5, np.float32), np.ones(labels.shape, bool)
    valid[2] = False
    found = registration_residual(aligned(labels, images, target, valid=valid))
    np.testing.assert_allclose(found, np.sqrt(0.04 / 2), rtol=1e-5)


def test_arrays_that_do_not_fit_are_refused() -> None:
    labels, images, target = planted((8, 8))
    for change in ({"valid": np.ones((8, 8))}, {"target_valid": np.ones((5, 8, 8))}, {"images": images[:1]}):
        with pytest.raises(Exception, match="don't match"):
            fuse(**{"labels": labels, "images": images, "target": target, "method": "jlf", **change})  # type: ignore[arg-type]
