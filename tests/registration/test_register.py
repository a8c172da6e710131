"""Registration of the toy cohort to its template."""

from __future__ import annotations

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
from atlasmith.propagation import propagate_subject
from atlasmith.registration import register_subjects
from atlasmith.registration.stage import load_registration
from atlasmith.template import train
from atlasmith.training.dataset import AlignedImages
from atlasmith.training.instance_optimization import instance_objective
from atlasmith.transforms import DIRECTIONS


def test_warped_images_match_the_template_better_than_affine_ones(toy_registered: Config) -> None:
    layout = toy_registered.layout
    template = read_image(layout.template_image).data
    inside = foreground(template)
    for subject in read_cohort(layout.cohort):
        affine, warped = (read_image(path(subject.id)).data for path in (layout.affine_image, layout.warped))
        assert ncc(template[inside], warped[inside]) > ncc(template[inside], affine[inside]) - 0.01, (
            subject.id
        )


def test_no_folds_and_an_inverse_consistent_transform(toy_registered: Config) -> None:
    for subject in read_cohort(toy_registered.layout.cohort):
        rows = read_tsv(toy_registered.layout.registration_table(subject.id))
        values = {row["metric"]: float(row["value"]) for row in rows}
        assert values["nonpositive_jacobian_percent"] == 0
        assert values["inverse_consistency_mm"] < 0.3


def test_composites_are_inverse_in_native_space(toy_registered: Config) -> None:
    layout = toy_registered.layout
    for subject in read_cohort(layout.cohort)[:3]:
        image = read_image(subject.image)
        points = world_points(image.grid)[torch.from_numpy(image.data.ravel() > 200)]
        mapped = transform_points(read_composite(layout.inverse(subject.id)), points)
        back = transform_points(read_composite(layout.forward(subject.id)), mapped)
        assert (back - points).norm(dim=1).median() < 0.2


def test_simpleitk_applies_the_composite_to_the_same_result(toy_registered: Config) -> None:
    """Preprocessed image, exported transform, one linear interpolation: the same voxels as ours."""
    layout = toy_registered.layout
    template = read_image(layout.template_image)
    subject = read_cohort(layout.cohort)[0]
    theirs = sitk.Resample(
        sitk.ReadImage(str(layout.preprocessed(subject.id)), sitk.sitkFloat32),
        to_sitk(template.data, template.grid),
        sitk.ReadTransform(str(layout.forward(subject.id))),
        sitk.sitkLinear,
        0.0,
    )
    ours = read_image(layout.warped(subject.id)).data
    inside = foreground(template.data)
    assert np.abs(from_sitk(theirs) - ours)[inside].mean() < 0.01 * np.ptp(ours)


def test_points_move_by_the_opposite_transform(toy_registered: Config) -> None:
    """The center of a scan's hole lands on that of the hole of its labels, resampled onto the template."""
    layout = toy_registered.layout
    reference = sitk.ReadImage(str(layout.template_image))

    def center(labels: sitk.Image) -> tuple[float, ...]:
        statistics = sitk.LabelShapeStatisticsImageFilter()
        statistics.Execute(sitk.Cast(labels == 1000, sitk.sitkUInt8))
        return statistics.GetCentroid(1)

    for subject in read_cohort(layout.cohort)[:3]:
        labels = sitk.ReadImage(str(subject.labels))
        forward, inverse = (
            sitk.ReadTransform(str(path(subject.id))) for path in (layout.forward, layout.inverse)
        )
        expected = center(sitk.Resample(labels, reference, forward, sitk.sitkNearestNeighbor))
        assert np.linalg.norm(np.subtract(inverse.TransformPoint(center(labels)), expected)) < 1
        assert np.linalg.norm(np.subtract(forward.TransformPoint(center(labels)), expected)) > 3


def test_ants_applies_the_composite_to_the_same_result(toy_registered: Config) -> None:
    """As above, by `ants.apply_transforms`, on the files as they are."""
    ants = pytest.importorskip("ants", reason="antspyx isn't installed")
    layout = toy_registered.layout
    template = read_image(layout.template_image)
    subject = read_cohort(layout.cohort)[0]
    # ANTs works in as many dimensions as its transforms have: slices are volumes of one voxel here.
    paths = (layout.template_image, layout.preprocessed(subject.id))
    images = [ants.image_read(str(path), dimension=3) for path in paths]
    theirs = ants.apply_transforms(*images, [str(layout.forward(subject.id))], interpolator="linear")
    ours = read_image(layout.warped(subject.id)).data
    inside = foreground(template.data)
    assert np.abs(theirs.numpy().reshape(ours.shape) - ours)[inside].mean() < 0.01 * np.ptp(ours)


def test_native_orientation_is_kept(toy_registered: Config) -> None:
    subject = read_cohort(toy_registered.layout.cohort)[0]
    assert read_grid(subject.image).spacing == pytest.approx((1.0, 1.5, 1.0))


def test_instance_optimization_never_ends_worse_than_it_starts(toy: Config) -> None:
    subjects = read_cohort(toy.layout.cohort)[:2]
    values = toy.resolved()

    def losses_after(steps: int, rate: float) -> list[float]:
        values["register"]["instance_optimization"] |= {"steps": steps, "learning_rate": rate}
        registration = load_registration(parse_config(values))
        images = AlignedImages(toy.layout, subjects, registration.model.grid)
        losses = []
        for index in range(len(subjects)):
            image, mask = images.batch([index])
            template = registration.mean_template
            velocity = registration.velocity(template, image, mask)
            objective = instance_objective(template, image, mask, images.grid, **toy.template.objective)
            losses.append(objective(velocity).loss.item())
        return losses

    start = losses_after(0, 0.05)
    assert all(after < before for after, before in zip(losses_after(15, 0.05), start, strict=True))
    # Where a rate is too large, the network's prediction remains.
    assert all(after <= before for after, before in zip(losses_after(3, 1e3), start, strict=True))


def test_a_regularizer_of_maps_is_evaluated_in_both_directions(toy: Config) -> None:
    values = toy.resolved()
    values["register"]["instance_optimization"]["steps"] = 4
    values["template"]["regularization"]["inverse_consistency"] = {"weight": 0.1}
    config = parse_config(values)
    registration = load_registration(config)
    template = registration.mean_template
    images = AlignedImages(toy.layout, read_cohort(toy.layout.cohort)[:1], registration.model.grid)
    image, mask = images.batch([0])
    objective = instance_objective(template, image, mask, images.grid, **config.template.objective)
    velocity = registration.velocity(template, image, mask)
    torch.testing.assert_close(objective(velocity, DIRECTIONS[:1]).loss, objective(velocity).loss)


@pytest.fixture(scope="module")
def labeled(toy: Config, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """The toy cohort with labels in the objective, registered."""
    folder = tmp_path_factory.mktemp("labeled") / "results"
    shutil.copytree(toy.output, folder, ignore=shutil.ignore_patterns("model", "*_xfm.h5", "*desc-warped*"))
    values = toy.resolved() | {"output": str(folder)}
    values["template"] |= {"steps": 60, "label_similarity": {"dice": {"weight": 1.0}}}
    values["template"]["segmenter"] = {"channels": [8, 16], "steps": 60}
    config = parse_config(values)
    train(config)
    register_subjects(config, [subject.id for subject in read_cohort(config.layout.cohort)])
    return config


def test_atlases_are_registered_by_their_labels_and_targets_by_predicted_ones(labeled: Config) -> None:
    """Labels of atlases coincide on the template; those of targets aren't used, though there are some."""
    layout = labeled.layout

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
    register_subjects(labeled, [target.id])
    write_cohort(layout.cohort, list(subjects.values()), ["age"])
    assert layout.forward(target.id).read_bytes() == before
    assert not layout.inverse_label_free(target.id).exists()


def test_the_label_free_transform_of_an_atlas_is_that_of_a_target(labeled: Config) -> None:
    layout = labeled.layout
    subjects = read_cohort(layout.cohort)
    atlas = next(s for s in subjects if s.role == "atlas")
    own, label_free = (path(atlas.id).read_bytes() for path in (layout.inverse, layout.inverse_label_free))
    assert own != label_free
    propagate_subject(labeled, atlas.id)
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
    register_subjects(labeled, [atlas.id])
    assert layout.inverse(atlas.id).read_bytes() == label_free
    write_cohort(layout.cohort, subjects, ["age"])
    register_subjects(labeled, [atlas.id])
    assert layout.inverse(atlas.id).read_bytes() == own


def test_a_result_does_not_depend_on_the_other_subjects(toy_registered: Config, tmp_path) -> None:
    layout = toy_registered.layout
    before = layout.forward("02").read_bytes()
    register_subjects(toy_registered, ["02"])
    assert layout.forward("02").read_bytes() == before
