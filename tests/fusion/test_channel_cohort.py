"""Propagation and fusion of a cohort with two channels, of which scans lack some, and with lesions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from channel_cohort import ABSENT, ATLASES, CHANNELS, LESIONS, write_channel_cohort
from fusion_data import with_fusion

from atlasmith.config import parse_config
from atlasmith.fusion import fuse_subject, train_fusers
from atlasmith.fusion.atlas_qc import check_atlases
from atlasmith.fusion.propagated import read_propagated
from atlasmith.io.files import read_json
from atlasmith.io.images import read_image, read_labels
from atlasmith.io.tables import read_cohort
from atlasmith.propagation import propagate_subject


@pytest.mark.parametrize("depth", [1, 5])
def test_each_channel_of_the_subject_is_propagated(tmp_path: Path, depth: int) -> None:
    config = write_channel_cohort(tmp_path, depth)
    layout, subjects = config.layout, {s.id: s for s in read_cohort(config.layout.cohort)}
    propagate_subject(config, "07")
    propagate_subject(config, "08")
    ids = [f"{k:02d}" for k in range(ATLASES)]
    stacks = {channel: read_image(layout.propagated_images("07", channel)) for channel in CHANNELS}
    labels = read_labels(layout.propagated_labels("07"))
    valid = read_labels(layout.propagated_valid("07"))
    for index, name in enumerate(ids):
        # What is registered lies where the target has it, or 4 voxels off.
        own = read_labels(subjects[name].labels).data
        moved = np.roll(own, 3 - index % 4 - 4 * (index % 2), axis=0)
        np.testing.assert_array_equal(labels.data[8:18, ..., index], moved[8:18])
        for channel, stack in stacks.items():
            expected = np.zeros_like(moved, np.float32)
            if ABSENT.get(name) != channel:
                own_image = read_image(layout.preprocessed(name, channel)).data
                expected = np.roll(own_image, 3 - index % 4 - 4 * (index % 2), axis=0)
            np.testing.assert_allclose(stack.data[8:18, ..., index], expected[8:18], atol=1e-5)
    lesion = np.ones((28, 26), int)
    lesion[LESIONS["00"]] = 0
    np.testing.assert_array_equal(valid.data[8:18, :, 0, 0], np.roll(lesion, 3, axis=0)[8:18])
    assert (valid.data[..., 1:] == 1).all()
    found = read_json(layout.propagated_sidecar("07"))
    assert found["Channels"] == {c: [n for n in ids if ABSENT.get(n) != c] for c in CHANNELS}
    assert not layout.propagated_images("08", "T2w").exists()  # which the target doesn't have

    atlases = read_propagated(layout, subjects["07"])
    assert atlases.images.shape == (2, ATLASES, *atlases.grid.tensor_shape)
    np.testing.assert_array_equal(
        atlases.present, [[ABSENT.get(name) != channel for name in ids] for channel in CHANNELS]
    )
    own = np.ones((28, 26), bool)
    own[LESIONS["07"]] = False
    start = np.rint(atlases.grid.affine[:2, 3]).astype(int)
    cut = tuple(slice(s, s + n) for s, n in zip(start, atlases.grid.shape, strict=False))
    target_valid = atlases.target_valid if depth == 1 else atlases.target_valid[..., 2]
    np.testing.assert_array_equal(target_valid, own[cut])
    other = read_propagated(layout, subjects["08"])
    assert other.target_valid is None and not other.present[1].any() and (other.target[1] == 0).all()


@pytest.mark.parametrize("depth", [1, 5])
def test_the_second_channel_finds_the_atlases_that_are_registered(tmp_path: Path, depth: int) -> None:
    config = with_fusion(write_channel_cohort(tmp_path, depth), methods=["majority", "local_weighted", "jlf"])
    right = {}
    for name in ("06", "08"):  # with T2w and without
        propagate_subject(config, name)
        fuse_subject(config, name)
        truth = read_labels(next(s for s in read_cohort(config.layout.cohort) if s.id == name).labels).data
        for method in config.fusion.methods:
            fused = read_labels(config.layout.segmentation(name, method)).data
            right[name, method] = (fused == truth)[8:18].mean()
    for method in ("local_weighted", "jlf"):
        assert right["06", method] > right["06", "majority"] + 0.02
    assert right["08", "local_weighted"] == pytest.approx(right["08", "majority"], abs=0.01)


def test_pairs_are_optimized_by_the_channels_that_both_have(tmp_path: Path) -> None:
    config = write_channel_cohort(tmp_path)
    values = config.resolved()
    values["register"]["instance_optimization"]["pairwise_steps"] = 20
    pairwise, layout = parse_config(values), config.layout
    subject = next(s for s in read_cohort(layout.cohort) if s.id == "07")
    residuals = []
    for each in (config, pairwise):
        propagate_subject(each, "07")
        atlases = read_propagated(layout, subject)
        squares = (atlases.images[1] - atlases.target[1]).square()
        residuals.append((squares * atlases.both_valid)[:, 8:18].mean(dim=(1, 2)))
    misregistered, without_second = [1, 3, 5], 2
    assert (residuals[1][misregistered] < 0.7 * residuals[0][misregistered]).all()
    assert residuals[1][without_second] == residuals[0][without_second]  # zeros of a channel that is absent


def test_nothing_depends_on_labels_of_an_excluded_region(tmp_path: Path) -> None:
    """Neither the networks, for which the atlas is a target too, nor any segmentation."""
    results = []
    for label in (0, 2):
        config = write_channel_cohort(tmp_path / str(label), lesion_label=label)
        layout, scans = config.layout, ("00", "07", "08")
        for subject in read_cohort(layout.cohort):
            if subject.role == "atlas" or subject.id in scans:
                propagate_subject(config, subject.id)
        train_fusers(config)
        for name in scans:
            fuse_subject(config, name)
        files = [layout.fuser_weights(network) for network in config.fusion.networks]
        files += [layout.segmentation(name, method) for name in scans for method in config.fusion.methods]
        files += [layout.confidence(name, method) for name in scans for method in config.fusion.methods]
        results.append([file.read_bytes() for file in files])
    assert results[0] == results[1]
    # Where a target is excluded, networks too leave the decision to the votes.
    majority, *others = (
        read_labels(layout.segmentation("07", method)).data[LESIONS["07"]] for method in config.fusion.methods
    )
    for other in others:
        np.testing.assert_array_equal(other, majority)


def test_the_quality_control_leaves_out_excluded_regions(tmp_path: Path) -> None:
    tables = []
    for label in (0, 2):
        config = write_channel_cohort(tmp_path / str(label), lesion_label=label)
        for subject in read_cohort(config.layout.cohort):
            if subject.role == "atlas":
                propagate_subject(config, subject.id)
        check_atlases(config)
        tables.append(config.layout.atlas_qc.read_bytes())
    assert tables[0] == tables[1]
