"""Propagation of the atlases to one subject of the toy cohort."""

import numpy as np
import pytest
import torch

from atlasmith.config import Config, parse_config
from atlasmith.core.errors import AtlasmithError
from atlasmith.core.grid import Array, Grid
from atlasmith.core.label_sampling import LabelSampler
from atlasmith.core.world import resample, resample_labels, resampling_coordinates
from atlasmith.io.files import read_json
from atlasmith.io.images import Image, read_antialiased, read_grid, read_image, read_labels
from atlasmith.io.tables import read_cohort
from atlasmith.io.transforms import read_composite, write_composite
from atlasmith.propagation import propagate_subject, stage


def manual_labels(config: Config, subject_id: str) -> Image:
    return read_labels(next(s for s in read_cohort(config.layout.cohort) if s.id == subject_id).labels)


def resampled_manual_labels(config: Config, subject_id: str, stack: Image) -> Array:
    """A subject's manual labels (X, Y, Z, 1) on the grid of a stack."""
    truth = manual_labels(config, subject_id)
    return stack.grid.unsqueeze(resample_labels(truth.data, truth.grid, [], stack.grid).numpy())[..., None]


def test_labels_are_sampled_through_the_composed_transform(toy_registered: Config) -> None:
    layout = toy_registered.layout
    propagate_subject(toy_registered, "08")
    stack = read_labels(layout.propagated_labels("08"))
    ids = read_json(layout.propagated_sidecar("08"))["atlases"]
    assert ids == [f"{k:02d}" for k in range(8)]
    assert set(np.unique(stack.data)) == {0, 4, 1000}
    atlas = manual_labels(toy_registered, "03")
    steps = read_composite(layout.inverse("08")) + read_composite(layout.forward("03"))
    expected = LabelSampler(torch.from_numpy(atlas.grid.squeeze(atlas.data)))(
        resampling_coordinates(atlas.grid, steps, stack.grid),
    )
    np.testing.assert_array_equal(stack.grid.squeeze(stack.data[..., 3]), expected.numpy())


@pytest.mark.parametrize("box", [(0, 4, 1, 3, 2, 4), (1, 2, 0, 1, 0, 1), (0, 9, 0, 9, 0, 9)], ids=str)
def test_maps_are_cropped_within_their_memory(box: tuple[int, ...]) -> None:
    part = [slice(*box[axis : axis + 2]) for axis in (0, 2, 4)]
    for maps in (torch.rand(2, 3, 5, 4, 6), torch.arange(360).int().view(3, 5, 4, 6)):
        expected, place = maps[(..., *part)].clone(), maps.data_ptr()
        found = stage._cropped(maps, part)
        assert torch.equal(found, expected) and found.data_ptr() == place and found.is_contiguous()


def test_propagated_labels_overlap_those_of_the_target(toy_registered: Config) -> None:
    propagate_subject(toy_registered, "09")
    stack = read_labels(toy_registered.layout.propagated_labels("09"))
    truth = resampled_manual_labels(toy_registered, "09", stack)
    for value in (4, 1000):
        found, true = stack.data == value, truth == value
        dice = 2 * (found & true).sum((0, 1, 2)) / (found.sum((0, 1, 2)) + true.sum())
        assert dice.mean() > 0.8, value


def test_an_atlas_is_not_propagated_to_itself_and_the_crop_keeps_a_margin(toy_registered: Config) -> None:
    layout = toy_registered.layout
    propagate_subject(toy_registered, "00")
    assert "00" not in read_json(layout.propagated_sidecar("00"))["atlases"]
    stack = read_labels(layout.propagated_labels("00"))
    native = read_grid(next(s for s in read_cohort(layout.cohort) if s.id == "00").image)
    assert stack.data.shape[0] < native.shape[0]
    occupied = np.flatnonzero(stack.data.any(axis=(1, 2, 3)))
    assert occupied[0] == 6  # 6 mm of margin in voxels of 1 mm
    assert read_image(layout.propagated_images("00")).data.shape == stack.data.shape


@pytest.mark.parametrize("spacing", [None, 1.7])
def test_the_search_of_the_extent_changes_nothing(
    spacing: float | None, toy_registered: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = toy_registered.resolved()
    values["fusion"] |= {"spacing": spacing, "margin": 2.0}
    config = parse_config(values)
    files = [
        toy_registered.layout.propagated_labels("08"),
        toy_registered.layout.propagated_images("08"),
    ]
    propagate_subject(config, "08")
    found = [read_image(path) for path in files]
    monkeypatch.setattr(stage, "likely_extent", lambda *_: [slice(0, None)] * 3)
    propagate_subject(config, "08")
    full = [read_image(path) for path in files]
    for ours, theirs in zip(found, full, strict=True):
        assert ours.grid.same_as(theirs.grid)
        np.testing.assert_allclose(ours.data, theirs.data, atol=1e-4)
    np.testing.assert_array_equal(found[0].data, full[0].data)


def test_pairwise_optimization_improves_what_the_template_gives(toy_registered: Config) -> None:
    before, dice_before = _differences_and_dice(toy_registered)
    values = toy_registered.resolved()
    values["register"]["instance_optimization"]["pairwise_steps"] = 10
    after, dice_after = _differences_and_dice(parse_config(values))
    assert read_json(toy_registered.layout.propagated_sidecar("09"))["PairwiseSteps"] == 10
    assert (after < before).all() and after.mean() < 0.8 * before.mean()
    assert dice_after > dice_before


def _differences_and_dice(config: Config) -> tuple[Array, float]:
    """Mean squared differences of the atlases propagated to target 09 from its image, and a label's Dice."""
    propagate_subject(config, "09")
    images = read_image(config.layout.propagated_images("09"))
    own = read_antialiased(config.layout.preprocessed("09"), min(images.grid.tensor_spacing))
    target = resample(torch.from_numpy(own.grid.squeeze(own.data))[None, None], own.grid, [], images.grid)
    differences = images.data - images.grid.unsqueeze(target[0, 0].numpy())[..., None]
    stack = read_labels(config.layout.propagated_labels("09"))
    truth = resampled_manual_labels(config, "09", stack)
    both = ((stack.data == 4) & (truth == 4)).sum()
    total = (stack.data == 4).sum() + stack.data.shape[-1] * (truth == 4).sum()
    return (differences**2).mean((0, 1, 2)), 2 * both / total


def test_a_coarser_fusion_grid(toy_registered: Config) -> None:
    values = toy_registered.resolved()
    values["fusion"]["spacing"] = 3.0
    propagate_subject(parse_config(values), "10")
    grid = read_labels(toy_registered.layout.propagated_labels("10")).grid
    assert grid.tensor_spacing == pytest.approx((3.0, 3.0), rel=0.1)


def test_a_failed_registration_is_an_error_that_names_the_subject(toy_registered: Config) -> None:
    layout = toy_registered.layout
    kept = layout.inverse("10").read_bytes()
    away = np.eye(4)
    away[0, 3] = 1e4
    write_composite(layout.inverse("10"), [away])
    with pytest.raises(AtlasmithError, match="sub-10: no atlas label lands"):
        propagate_subject(toy_registered, "10")
    layout.inverse("10").write_bytes(kept)


def test_a_field_of_view_that_ends_before_the_structures_has_no_labels(
    toy_registered: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its registration is right: it shows another part of the template's field of view."""
    layout = toy_registered.layout
    kept = layout.inverse("10").read_bytes()
    template = Grid.from_dict(read_json(layout.grid))
    image = read_grid(next(s for s in read_cohort(layout.cohort) if s.id == "10").image)
    shrunk = np.diag([0.02, 0.02, 1, 1])
    shrunk[:2, 3] = (template.affine @ [2, 2, 0, 1])[:2] - 0.02 * image.center[:2]
    write_composite(layout.inverse("10"), [shrunk])
    try:
        propagate_subject(toy_registered, "10")
    finally:
        layout.inverse("10").write_bytes(kept)
    assert "sub-10: no atlas label lands in its field of view" in capsys.readouterr().out
    assert not read_labels(layout.propagated_labels("10")).data.any()
