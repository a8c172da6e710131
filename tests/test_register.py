import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from atlasmith.config import Config, parse_config
from atlasmith.core.sampling import sample_labels
from atlasmith.core.world import resampling_coordinates, transform_points, world_points
from atlasmith.evaluation.metrics import foreground, ncc
from atlasmith.io.files import read_json
from atlasmith.io.images import read_grid, read_image, read_labels
from atlasmith.io.tables import Subject, read_cohort, read_tsv, write_cohort
from atlasmith.io.transforms import from_sitk, read_composite, to_sitk
from atlasmith.transforms import DIRECTIONS
from atlasmith.propagation import propagate_subject
from atlasmith.registration import register_subjects
from atlasmith.registration.stage import Registration
from atlasmith.template import train
from atlasmith.training import instance_optimization
from atlasmith.training.dataset import AlignedImages


def test_warped_images_match_the_template_better_than_affine_ones(toy_registered: Config) -> None:
    layout = toy_registered.layout
    template = read_image(layout.template_image).data
    inside = foreground(template)
    for subject in read_cohort(layout.cohort):
        affine, warped = (read_image(path(subject.id)).data for path in (layout.affine_image, layout.warped))
        assert ncc(template[inside], warped[inside]) > ncc(template[inside], affine[inside]) - 0.01, (
            subject.id
        )


def test_nothing_folds_and_the_inverse_inverts(toy_registered: Config) -> None:
    for subject in read_cohort(toy_registered.layout.cohort):
        rows = read_tsv(toy_registered.layout.registration_table(subject.id))
        values = {row["metric"]: float(row["value"]) for row in rows}
        assert values["nonpositive_jacobian_percent"] == 0
        assert values["inverse_consistency_mm"] < 0.3


def test_composites_lead_there_and_back_in_native_space(toy_registered: Config) -> None:
    layout = toy_registered.layout
    for subject in read_cohort(layout.cohort)[:3]:
        image = read_image(subject.image)
        points = world_points(image.grid)[torch.from_numpy(image.data.ravel() > 200)]
        there = transform_points(read_composite(layout.inverse(subject.id)), points)
        back = transform_points(read_composite(layout.forward(subject.id)), there)
        assert (back - points).norm(dim=1).median() < 0.2


def test_simpleitk_makes_our_picture_of_the_exported_composite(toy_registered: Config) -> None:
    """Native image, exported transform, one linear interpolation: the same voxels as ours."""
    layout = toy_registered.layout
    template = read_image(layout.template_image)
    subject = read_cohort(layout.cohort)[0]
    theirs = sitk.Resample(
        sitk.ReadImage(str(subject.image), sitk.sitkFloat32),
        to_sitk(template.data, template.grid),
        sitk.ReadTransform(str(layout.forward(subject.id))),
        sitk.sitkLinear,
        0.0,
    )
    ours = read_image(layout.warped(subject.id)).data
    inside = foreground(template.data)
    assert np.abs(from_sitk(theirs) - ours)[inside].mean() < 0.01 * np.ptp(ours)


def test_ants_makes_our_picture_of_the_exported_composite(toy_registered: Config) -> None:
    """As above, by `ants.apply_transforms`, on the files as they are."""
    ants = pytest.importorskip("ants", reason="antspyx isn't installed")
    layout = toy_registered.layout
    template = read_image(layout.template_image)
    subject = read_cohort(layout.cohort)[0]
    # ANTs works in as many dimensions as its transforms have: slices are volumes of one voxel here.
    pictures = [ants.image_read(str(path), dimension=3) for path in (layout.template_image, subject.image)]
    theirs = ants.apply_transforms(*pictures, [str(layout.forward(subject.id))], interpolator="linear")
    ours = read_image(layout.warped(subject.id)).data
    inside = foreground(template.data)
    assert np.abs(theirs.numpy().reshape(ours.shape) - ours)[inside].mean() < 0.01 * np.ptp(ours)


def test_native_orientation_is_kept(toy_registered: Config) -> None:
    subject = read_cohort(toy_registered.layout.cohort)[0]
    assert read_grid(subject.image).spacing == pytest.approx((1.0, 1.5, 1.0))


def test_refinement_never_ends_worse_than_it_starts(toy: Config) -> None:
    subjects = read_cohort(toy.layout.cohort)[:2]
    values = toy.resolved()

    def judge(steps: int, rate: float) -> list[float]:
        values["register"]["instance_optimization"] |= {"steps": steps, "learning_rate": rate}
        registration = Registration(parse_config(values))
        images = AlignedImages(toy.layout, subjects, registration.model.grid)
        losses = []
        for index in range(len(subjects)):
            image, mask = images.batch([index])
            velocity = registration(registration.hub, image, mask)
            judged = instance_optimization.instance_objective(
                registration.config, registration.model.grid, registration.hub, image, mask
            )
            losses.append(judged(velocity).loss.item())
        return losses

    start = judge(0, 0.05)
    assert all(after < before for after, before in zip(judge(15, 0.05), start, strict=True))
    # A rate that blows up leaves the network's answer.
    assert all(after <= before for after, before in zip(judge(3, 1e3), start, strict=True))


def test_a_regularizer_of_maps_is_judged_both_ways(toy: Config) -> None:
    values = toy.resolved()
    values["register"]["instance_optimization"]["steps"] = 4
    values["template"]["regularization"]["inverse_consistency"] = {"weight": 0.1}
    registration = Registration(parse_config(values))
    images = AlignedImages(toy.layout, read_cohort(toy.layout.cohort)[:1], registration.model.grid)
    judge = instance_optimization.instance_objective(
        registration.config, images.grid, registration.hub, *images.batch([0])
    )
    velocity = registration(registration.hub, *images.batch([0]))
    torch.testing.assert_close(judge(velocity, DIRECTIONS[:1]).loss, judge(velocity).loss)


@pytest.fixture(scope="module")
def labelled(toy: Config, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """The toy cohort with labels in the objective, registered."""
    folder = tmp_path_factory.mktemp("labelled") / "results"
    shutil.copytree(toy.output, folder, ignore=shutil.ignore_patterns("model", "*_xfm.h5", "*desc-warped*"))
    values = toy.resolved() | {"output": str(folder)}
    values["template"] |= {"steps": 60, "labels": {"dice": {"weight": 1.0}}}
    values["template"]["segmenter"] = {"channels": [8, 16], "steps": 60}
    config = parse_config(values)
    train(config)
    register_subjects(config, [subject.id for subject in read_cohort(config.layout.cohort)])
    return config


def test_atlases_go_by_their_own_labels_and_targets_by_what_is_seen(labelled: Config) -> None:
    """Labels of atlases meet on the template; those of targets take no part, though there are some."""
    layout = labelled.layout

    def on_template(subject: Subject, forward: Path) -> np.ndarray:
        labels, grid = read_labels(subject.labels), read_grid(layout.template_image)
        voxels = resampling_coordinates(labels.grid, read_composite(forward), grid)
        return sample_labels(torch.from_numpy(labels.grid.squeeze(labels.data)), voxels).numpy()

    subjects = {s.id: s for s in read_cohort(layout.cohort)}
    atlases = [s for s in subjects.values() if s.role == "atlas"]
    maps = np.stack([on_template(s, layout.forward(s.id)) for s in atlases])
    agree = [(maps == value).mean(0) > 0.5 for value in (4, 1000)]
    dice = [
        2 * (agree[k] & (m == value)).sum() / (agree[k].sum() + (m == value).sum())
        for m in maps
        for k, value in enumerate((4, 1000))
    ]
    assert np.mean(dice) > 0.93
    target = next(s for s in subjects.values() if s.role == "target")
    before = layout.forward(target.id).read_bytes()
    others = [replace(s, labels=None) if s.role == "target" else s for s in subjects.values()]
    write_cohort(layout.cohort, others, ["age"])
    register_subjects(labelled, [target.id])
    write_cohort(layout.cohort, list(subjects.values()), ["age"])
    assert layout.forward(target.id).read_bytes() == before
    assert not layout.inverse_label_free(target.id).exists()


def test_an_atlas_in_the_place_of_a_target_is_registered_as_one(labelled: Config) -> None:
    layout = labelled.layout
    subjects = read_cohort(layout.cohort)
    atlas = next(s for s in subjects if s.role == "atlas")
    own, blind = (path(atlas.id).read_bytes() for path in (layout.inverse, layout.inverse_label_free))
    assert own != blind
    propagate_subject(labelled, atlas.id)
    stack = read_labels(layout.propagated_labels(atlas.id))
    other = next(s for s in subjects if s.id == read_json(layout.propagated_sidecar(atlas.id))["atlases"][0])
    labels = read_labels(other.labels)
    steps = read_composite(layout.inverse_label_free(atlas.id)) + read_composite(layout.forward(other.id))
    expected = sample_labels(
        torch.from_numpy(labels.grid.squeeze(labels.data)),
        resampling_coordinates(labels.grid, steps, stack.grid),
    )
    np.testing.assert_array_equal(stack.grid.squeeze(stack.data[..., 0]), expected.numpy())
    write_cohort(layout.cohort, [replace(s, role="target") if s is atlas else s for s in subjects], ["age"])
    register_subjects(labelled, [atlas.id])
    assert layout.inverse(atlas.id).read_bytes() == blind
    write_cohort(layout.cohort, subjects, ["age"])
    register_subjects(labelled, [atlas.id])
    assert layout.inverse(atlas.id).read_bytes() == own


def test_a_result_does_not_depend_on_its_companions(toy_registered: Config, tmp_path) -> None:
    layout = toy_registered.layout
    before = layout.forward("02").read_bytes()
    register_subjects(toy_registered, ["02"])
    assert layout.forward("02").read_bytes() == before
