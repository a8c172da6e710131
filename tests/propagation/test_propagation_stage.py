import numpy as np
import pytest
import torch

from atlasmith.config import Config, parse_config
from atlasmith.core.errors import AtlasmithError
from atlasmith.core.sampling import sample_labels
from atlasmith.core.world import resample, resampling_coordinates
from atlasmith.io.files import read_json
from atlasmith.io.images import read_grid, read_image, read_labels, write_image
from atlasmith.io.tables import read_cohort, read_tsv
from atlasmith.io.transforms import read_composite, write_composite
from atlasmith.preprocess.n4 import read_preprocessed
from atlasmith.propagation import label_template, propagate_subject, propagate_from_template, select_atlases


def test_labels_arrive_where_the_composed_transform_puts_them(toy_registered: Config) -> None:
    layout = toy_registered.layout
    propagate_subject(toy_registered, "08")
    stack = read_labels(layout.propagated_labels("08"))
    ids = read_json(layout.propagated_sidecar("08"))["atlases"]
    assert ids == [f"{k:02d}" for k in range(8)]
    assert set(np.unique(stack.data)) == {0, 4, 1000}
    subjects = {subject.id: subject for subject in read_cohort(layout.cohort)}
    atlas = read_labels(subjects["03"].labels)
    steps = read_composite(layout.inverse("08")) + read_composite(layout.forward("03"))
    expected = sample_labels(
        torch.from_numpy(atlas.grid.squeeze(atlas.data)),
        resampling_coordinates(atlas.grid, steps, stack.grid),
    )
    np.testing.assert_array_equal(stack.grid.squeeze(stack.data[..., 3]), expected.numpy())


def test_propagated_labels_overlap_the_targets(toy_registered: Config) -> None:
    layout = toy_registered.layout
    propagate_subject(toy_registered, "09")
    stack = read_labels(layout.propagated_labels("09"))
    truth = read_labels(next(s for s in read_cohort(layout.cohort) if s.id == "09").labels)
    voxels = resampling_coordinates(truth.grid, [], stack.grid)
    truth_here = stack.grid.unsqueeze(
        sample_labels(torch.from_numpy(truth.grid.squeeze(truth.data)), voxels).numpy()
    )
    for value in (4, 1000):
        mine, theirs = stack.data == value, (truth_here == value)[..., None]
        dice = 2 * (mine & theirs).sum((0, 1, 2)) / (mine.sum((0, 1, 2)) + theirs.sum())
        assert dice.mean() > 0.8, value


def test_an_atlas_is_not_its_own_voter_and_the_crop_keeps_a_margin(toy_registered: Config) -> None:
    layout = toy_registered.layout
    propagate_subject(toy_registered, "00")
    assert "00" not in read_json(layout.propagated_sidecar("00"))["atlases"]
    stack = read_labels(layout.propagated_labels("00"))
    native = read_grid(next(s for s in read_cohort(layout.cohort) if s.id == "00").image)
    assert stack.data.shape[0] < native.shape[0]
    occupied = np.flatnonzero(stack.data.any(axis=(1, 2, 3)))
    assert occupied[0] == 6  # 6 mm of margin in voxels of 1 mm
    assert read_image(layout.propagated_images("00")).data.shape == stack.data.shape


def test_a_pair_can_go_on_from_what_the_template_gives_it(toy_registered: Config) -> None:
    layout = toy_registered.layout
    before, overlap = _likeness(toy_registered)
    values = toy_registered.resolved()
    values["register"]["instance_optimization"]["pairwise_steps"] = 10
    config = parse_config(values)
    after, overlap_after = _likeness(config)
    assert read_json(layout.propagated_sidecar("09"))["PairSteps"] == 10
    assert (after < before).all() and after.mean() < 0.8 * before.mean()
    assert overlap_after > overlap


def _likeness(config: Config) -> tuple[np.ndarray, float]:
    """Of the atlases propagated to target 09: mean squared differences of intensities, Dice of a label."""
    propagate_subject(config, "09")
    images = read_image(config.layout.propagated_images("09"))
    subject = next(s for s in read_cohort(config.layout.cohort) if s.id == "09")
    own = read_preprocessed(subject.image, min(images.grid.tensor_spacing), n4=False)
    target = resample(torch.from_numpy(own.grid.squeeze(own.data))[None, None], own.grid, [], images.grid)
    gaps = images.data - images.grid.unsqueeze(target[0, 0].numpy())[..., None]
    stack, truth = read_labels(config.layout.propagated_labels("09")), read_labels(subject.labels)
    voxels = resampling_coordinates(truth.grid, [], stack.grid)
    here = stack.grid.unsqueeze(
        sample_labels(torch.from_numpy(truth.grid.squeeze(truth.data)), voxels).numpy()
    )[..., None]
    both = ((stack.data == 4) & (here == 4)).sum()
    return (gaps**2).mean((0, 1, 2)), 2 * both / ((stack.data == 4).sum() + len(gaps.T) * (here == 4).sum())


def test_a_coarser_fusion_grid(toy_registered: Config) -> None:
    values = toy_registered.resolved()
    values["fusion"]["spacing"] = 3.0
    propagate_subject(parse_config(values), "10")
    grid = read_labels(toy_registered.layout.propagated_labels("10")).grid
    assert grid.tensor_spacing == pytest.approx((3.0, 3.0), rel=0.1)


def test_the_atlases_that_look_most_like_a_subject_vote(toy_registered: Config) -> None:
    layout = toy_registered.layout
    label_template(toy_registered)
    values = toy_registered.resolved()
    values["fusion"]["atlas_selection"] = 3
    config = parse_config(values)
    subjects = read_cohort(layout.cohort)
    target, atlases = subjects[8], subjects[:8]
    chosen = select_atlases(config, target, atlases)
    assert chosen == sorted(chosen, key=lambda s: s.id) and len(chosen) == 3
    assert {s.id for s in select_atlases(config, target, atlases[::-1])} == {s.id for s in chosen}
    kept = layout.warped(target.id).read_bytes()
    for twin in atlases:  # whoever looks the same is among the chosen, whatever the intensities' scale
        image = read_image(layout.warped(twin.id))
        write_image(layout.warped(target.id), 3 * image.data + 7, image.grid)
        assert twin in select_atlases(config, target, atlases)
    layout.warped(target.id).write_bytes(kept)
    propagate_subject(config, target.id)
    assert read_json(layout.propagated_sidecar(target.id))["atlases"] == [s.id for s in chosen]
    assert read_labels(layout.propagated_labels(target.id)).data.shape[-1] == 3
    assert select_atlases(toy_registered, target, atlases) == atlases


def test_a_failed_registration_is_named(toy_registered: Config, tmp_path) -> None:
    layout = toy_registered.layout
    kept = layout.inverse("10").read_bytes()
    away = np.eye(4)
    away[0, 3] = 1e4
    write_composite(layout.inverse("10"), [away])
    with pytest.raises(AtlasmithError, match="sub-10: no atlas label lands"):
        propagate_subject(toy_registered, "10")
    layout.inverse("10").write_bytes(kept)


def test_the_template_has_the_labels_of_most_atlases(toy_registered: Config) -> None:
    layout = toy_registered.layout
    label_template(toy_registered)
    assert [row["index"] for row in read_tsv(layout.template_label_table)] == ["4", "1000"]
    labels, shares = read_labels(layout.template_labels), read_image(layout.template_probabilities)
    assert labels.grid.same_as(read_grid(layout.template_image)) and shares.grid.same_as(labels.grid)
    total = np.zeros(shares.data.shape)
    atlases = [s for s in read_cohort(layout.cohort) if s.role == "atlas"]
    for atlas in atlases:
        own = read_labels(atlas.labels)
        voxels = resampling_coordinates(own.grid, read_composite(layout.forward(atlas.id)), labels.grid)
        moved = sample_labels(torch.from_numpy(own.grid.squeeze(own.data)), voxels).numpy()
        total += labels.grid.unsqueeze(moved)[..., None] == np.array([4, 1000])
    np.testing.assert_allclose(shares.data, total / len(atlases), atol=1e-6)
    background = 1 - shares.data.sum(axis=-1, keepdims=True)
    most = np.array([0, 4, 1000])[np.concatenate([background, shares.data], axis=-1).argmax(axis=-1)]
    clear = np.sort(np.concatenate([background, shares.data], axis=-1), axis=-1)
    clear = clear[..., -1] > clear[..., -2] + 1e-6
    np.testing.assert_array_equal(labels.data[clear], most[clear])


def test_the_templates_labels_overlap_a_targets(toy_registered: Config) -> None:
    layout = toy_registered.layout
    label_template(toy_registered)
    propagate_from_template(toy_registered, "09")
    truth = read_labels(next(s for s in read_cohort(layout.cohort) if s.id == "09").labels)
    mine = read_labels(layout.segmentation("09", "template"))
    assert mine.grid.same_as(truth.grid)
    for value in (4, 1000):
        both = ((mine.data == value) & (truth.data == value)).sum()
        assert 2 * both / ((mine.data == value).sum() + (truth.data == value).sum()) > 0.85, value
