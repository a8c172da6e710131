"""Registration of the toy cohort to its template."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from atlasmith.config import Config, parse_config
from atlasmith.core.label_sampling import LabelSampler
from atlasmith.core.world import resampling_coordinates, transform_points, world_points
from atlasmith.evaluation.metrics import foreground, ncc
from atlasmith.io.files import read_json
from atlasmith.io.images import read_grid, read_image, read_labels, write_image
from atlasmith.io.tables import Subject, read_cohort, read_tsv, write_cohort
from atlasmith.io.transforms import from_sitk, read_composite, to_sitk
from atlasmith.optimization import instance_objective
from atlasmith.propagation import propagate_subject
from atlasmith.registration import register_subjects, stage
from atlasmith.registration.stage import load_registration
from atlasmith.registration.template import TemplateRegistration
from atlasmith.template import train
from atlasmith.training.dataset import AlignedImages
from atlasmith.transforms import DIRECTIONS
from atlasmith.workflow.resources import training_bytes


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
            velocity = registration.coefficients(template, image, mask)
            objective = instance_objective(template, image, mask, images.grid, **toy.objective)
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
    objective = instance_objective(template, image, mask, images.grid, **config.objective)
    velocity = registration.coefficients(template, image, mask)
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
        return LabelSampler(torch.from_numpy(labels.grid.squeeze(labels.data)))(voxels).numpy()

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
    expected = LabelSampler(torch.from_numpy(labels.grid.squeeze(labels.data)))(
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


def files_of(config: Config, subject: str) -> dict[str, bytes]:
    folder = config.layout.subject_folder(subject)
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def copied(config: Config, folder: Path) -> Config:
    shutil.copytree(config.output, folder / "results")
    return config.model_copy(update={"output": folder / "results"})


def test_a_batch_is_registered_as_each_subject_alone(
    toy_registered: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within 0.01 mm: sums are rounded otherwise. In a batch, the others make no difference at all."""
    config = copied(toy_registered, tmp_path)
    subjects = read_cohort(config.layout.cohort)
    values = [replace(s, covariates={"age": None}) if s.id == "01" else s for s in subjects]
    write_cohort(config.layout.cohort, values, ["age"])  # one at the mean, where there is nothing to compose
    register_subjects(config, ["00", "01", "02", "03"])
    alone = {s: read_composite(config.layout.forward(s)) for s in ("00", "01", "02", "03")}
    monkeypatch.setattr(stage, "batch_size", lambda registration: 3)
    register_subjects(config, ["00", "01", "02"])
    together = {subject: files_of(config, subject) for subject in ("00", "01", "02")}
    for subject in together:
        found = read_composite(config.layout.forward(subject))
        difference = np.abs(found[0].vectors - alone[subject][0].vectors)  # type: ignore[union-attr]
        assert difference.max() < 0.01
    register_subjects(config, ["03", "01", "00"])
    assert all(files_of(config, subject) == together[subject] for subject in ("00", "01"))


def test_a_failure_in_a_batch_is_one_subject_s_own(
    toy_registered: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image that can't be read, and one that isn't finite; the others are registered."""
    config = copied(toy_registered, tmp_path)
    layout, failed = config.layout, {}
    monkeypatch.setattr(stage, "batch_size", lambda registration: 4)
    layout.affine_image("01").write_bytes(b"no image")
    image = read_image(layout.affine_image("02"))
    write_image(layout.affine_image("02"), np.where(image.data > 0.5, np.nan, image.data), image.grid)
    for subject in ("00", "01", "02", "03"):
        layout.forward(subject).unlink()

    @contextmanager
    def attempt(subject: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            failed[subject] = error

    register_subjects(config, ["00", "01", "02", "03"], attempt)
    assert [*failed] == ["01", "02"] and "aren't finite" in str(failed["02"])
    assert [layout.forward(s).exists() for s in ("00", "01", "02", "03")] == [True, False, False, True]


def test_a_batch_that_does_not_fit_is_halved(
    toy_registered: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = copied(toy_registered, tmp_path)
    real, sizes = TemplateRegistration.to_template_space, []

    def limited(
        self: TemplateRegistration, codes: torch.Tensor, *images: torch.Tensor
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        sizes.append(len(codes))
        if len(codes) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, codes, *images)

    before = {subject: files_of(config, subject) for subject in ("00", "01", "02")}
    monkeypatch.setattr(TemplateRegistration, "to_template_space", limited)
    monkeypatch.setattr(stage, "batch_size", lambda registration: 3)
    register_subjects(config, ["00", "01", "02"])
    assert sizes == [3, 1, 2, 1, 1]
    assert {subject: files_of(config, subject) for subject in before} == before


def test_the_batch_fits_the_memory_of_the_device(toy: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    registration = load_registration(toy)
    assert stage.batch_size(registration) == 1
    registration.device = torch.device("cuda")
    each = training_bytes(registration.mean_template.numel(), 1)
    for free, size in ((None, stage.MAX_BATCH), (0, 1), (3.5 * each, 3), (100 * each, stage.MAX_BATCH)):
        monkeypatch.setattr(stage, "free_bytes", lambda device, free=free: free)
        assert stage.batch_size(registration) == size


def test_atlases_of_a_batch_are_registered_by_their_labels_and_without(
    labeled: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = copied(labeled, tmp_path)
    layout = config.layout
    subjects = read_cohort(layout.cohort)
    atlases, targets = ([s.id for s in subjects if s.role == role][:2] for role in ("atlas", "target"))
    paths = [layout.inverse(s) for s in (*atlases, *targets)] + [
        layout.inverse_label_free(s) for s in atlases
    ]
    before = [read_composite(path)[1].vectors for path in paths]  # type: ignore[union-attr]
    for path in paths:
        path.unlink()
    monkeypatch.setattr(stage, "batch_size", lambda registration: 4)
    register_subjects(config, [atlases[0], targets[0], atlases[1], targets[1]])
    for path, vectors in zip(paths, before, strict=True):
        found = read_composite(path)[1].vectors  # type: ignore[union-attr]
        assert np.abs(found - vectors).max() < 0.05, path
    assert not layout.inverse_label_free(targets[0]).exists()
