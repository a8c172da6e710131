import numpy as np
import pytest
import SimpleITK as sitk
import torch

from atlasmith.aligned import AlignedImages
from atlasmith.config import Config, parse_config
from atlasmith.io.images import read_grid, read_image
from atlasmith.io.tables import read_cohort, read_tsv
from atlasmith.io.transforms import from_sitk, read_composite, to_sitk
from atlasmith.register import register_subjects
from atlasmith.register.apply import Registration
from atlasmith.scoring.metrics import foreground, ncc
from atlasmith.warp import Velocity, map_points, world_points


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
        there = map_points(read_composite(layout.inverse(subject.id)), points)
        back = map_points(read_composite(layout.forward(subject.id)), there)
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


def test_native_orientation_is_kept(toy_registered: Config) -> None:
    subject = read_cohort(toy_registered.layout.cohort)[0]
    assert read_grid(subject.image).spacing == pytest.approx((1.0, 1.5, 1.0))


def test_refinement_never_ends_worse_than_it_starts(toy: Config) -> None:
    subjects = read_cohort(toy.layout.cohort)[:2]
    values = toy.resolved()

    def judge(steps: int, rate: float) -> list[float]:
        values["register"] |= {"refine_steps": steps, "refine_learning_rate": rate}
        registration = Registration(parse_config(values))
        images = AlignedImages(toy.layout, subjects, registration.model.grid)
        losses = []
        for index in range(len(subjects)):
            image, mask = images.batch([index])
            velocity = registration(registration.hub, image, mask)
            losses.append(registration._judge(registration.hub, image, mask, Velocity(velocity)).loss.item())
        return losses

    start = judge(0, 0.05)
    assert all(after < before for after, before in zip(judge(15, 0.05), start, strict=True))
    # A rate that blows up leaves the network's answer.
    assert all(after <= before for after, before in zip(judge(3, 1e3), start, strict=True))


def test_a_result_does_not_depend_on_its_companions(toy_registered: Config, tmp_path) -> None:
    layout = toy_registered.layout
    before = layout.forward("02").read_bytes()
    register_subjects(toy_registered, ["02"])
    assert layout.forward("02").read_bytes() == before
