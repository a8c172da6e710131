"""The demo cohort's truth, and the grading of runs with known results."""

from __future__ import annotations

import hashlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from validator import errors, find_issues

from atlasmith.core.errors import AtlasmithError
from atlasmith.core.grid import Grid
from atlasmith.core.world import resampling_coordinates, transform_points
from atlasmith.io.files import read_json, write_json
from atlasmith.io.images import read_image, read_labels, write_image
from atlasmith.io.tables import read_tsv
from atlasmith.io.transforms import read_composite

pytest.importorskip("nilearn", reason="nilearn isn't installed: pip install 'atlasmith[demo]'")

from planted_run import names, plant

from atlasmith.demo import generator, grade, make_demo
from atlasmith.demo.anatomy import LABELS, load_brain
from atlasmith.demo.generator import base_labels_file, truth_file, truth_layout
from atlasmith.demo.grading import age_effect
from atlasmith.demo.warping import apply_affine, exponentiate, world_positions

COUNT, SPACING = 4, 6.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cohort") / "demo"
    make_demo(path, seed=3, subjects=COUNT, spacing=SPACING)
    return path


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_is_a_bids_folder_with_every_role(folder: Path) -> None:
    rows = read_tsv(folder / "participants.tsv")
    assert {row["role"] for row in rows} == {"atlas", "target", "train"}
    ages = np.linspace(20, 90, COUNT).clip(max=89)  # BIDS hides ages above 89
    assert sorted(float(row["age"]) for row in rows) == pytest.approx(ages, abs=0.05)
    table = {int(row["index"]) for row in read_tsv(folder / "derivatives" / "manual" / "dseg.tsv")}
    for row in rows:
        stem = f"{row['participant_id']}/anat/{row['participant_id']}"
        image = read_image(folder / f"{stem}_T1w.nii.gz")
        labels = read_labels(folder / "derivatives" / "manual" / f"{stem}_dseg.nii.gz")
        assert image.grid.same_as(labels.grid)
        assert set(np.unique(labels.data)) == table | {0}
        assert not labels.data[image.data == 0].any()
        border = np.ones(image.data.shape, bool)
        border[1:-1, 1:-1, 1:-1] = False
        assert not image.data[border].any(), "the field of view cuts the brain"


@pytest.mark.parametrize("part", ["", "derivatives/manual", "derivatives/truth"])
def test_the_bids_validator_finds_no_error(folder: Path, part: str) -> None:
    assert errors(find_issues(folder / part)) == []


def test_twenty_subjects_have_ages_spread_over_roles() -> None:
    roles = generator.assign_roles(20)
    assert {role: roles.count(role) for role in generator.ROLES} == {"atlas": 8, "target": 6, "train": 6}
    means = [np.mean([place for place, r in enumerate(roles) if r == role]) for role in generator.ROLES]
    assert np.ptp(means) < 2


def test_headers_have_mixed_orientations(folder: Path) -> None:
    affines = [nib.load(path).affine for path in sorted(folder.glob("sub-*/anat/*_T1w.nii.gz"))]
    assert len({"".join(nib.aff2axcodes(affine)) for affine in affines}) == 4
    oblique = [nib.affines.obliquity(affine).max() > 0.05 for affine in affines]
    assert any(oblique) and not all(oblique)


def test_inverse_undoes_forward_within_the_brain(folder: Path) -> None:
    truth = truth_layout(folder)
    base = read_labels(base_labels_file(truth))
    points = torch.from_numpy(apply_affine(base.grid.affine, np.argwhere(base.data > 0)[::500])).double()
    for name in names(folder):
        there = transform_points(read_composite(truth.forward(name)), points)
        back = transform_points(read_composite(truth.inverse(name)), there)
        gap = torch.linalg.vector_norm(back - points, dim=1)
        assert torch.linalg.vector_norm(there - points, dim=1).median() > 3
        assert gap.max() < 0.5 and gap.median() < 0.1


def test_stored_truth_warps_the_base_onto_each_subject(folder: Path) -> None:
    truth = truth_layout(folder)
    base_image, base = read_image(truth.template_image), read_labels(base_labels_file(truth))
    for name in names(folder):
        stem = f"sub-{name}/anat/sub-{name}"
        labels = read_labels(folder / "derivatives" / "manual" / f"{stem}_dseg.nii.gz")
        voxels = resampling_coordinates(base.grid, read_composite(truth.inverse(name)), labels.grid)[
            0
        ].reshape(3, -1)
        nearest = np.rint(voxels.numpy()).astype(int)
        nearest = np.clip(nearest, 0, np.array(base.data.shape)[:, None] - 1)
        expected = base.data[tuple(nearest)].reshape(labels.data.shape)
        for label in LABELS:
            a, b = labels.data == label, expected == label
            assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.7, LABELS[label]
        agree = labels.data == expected
        assert agree[(labels.data > 0) | (expected > 0)].mean() > 0.85
        image = read_image(folder / f"{stem}_T1w.nii.gz").data
        inside = image > 0
        smooth = base_image.data[tuple(nearest)].reshape(image.shape)
        assert np.corrcoef(np.log(image[inside]), smooth[inside])[0, 1] > 0.6  # noise and bias remain


def test_random_warps_have_no_mean_and_no_trend_with_age() -> None:
    base = load_brain(SPACING)
    ages = np.array([20.0, 40.0, 65.0, 90.0])
    velocities = generator.random_velocities(base, ages, seed=0)
    assert velocities.std() > 0.5
    for weights in (np.ones(4), ages - ages.mean()):
        assert np.abs(np.tensordot(weights / np.abs(weights).sum(), velocities, axes=1)).max() < 1e-4


def test_exponential_of_a_linear_velocity_is_the_matrix_exponential() -> None:
    # v(x) = log(1.2) x has exp(v)(x) = 1.2 x; linear interpolation is exact on it, away from the border.
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = -20
    grid = Grid((21, 21, 21), affine)
    points = world_positions(grid).reshape(21, 21, 21, 3)
    displacement = exponentiate(np.log(1.2) * points, grid)
    middle = (slice(5, 16),) * 3
    assert np.abs(displacement - 0.2 * points)[middle].max() < 0.02


def test_ventricles_widen_and_cortex_thins_with_age(folder: Path) -> None:
    truth = read_json(truth_file(folder))["age"]
    assert np.all(np.diff(truth["ventricle_ml"]) > 0) and np.all(np.diff(truth["cortex_ml"]) < 0)
    assert 1.6 < truth["ventricle_ml"][-1] / truth["ventricle_ml"][0] < 2.0
    assert 0.88 < truth["cortex_ml"][-1] / truth["cortex_ml"][0] < 0.98


def test_same_call_same_bytes_and_left_alone(folder: Path, tmp_path: Path) -> None:
    again = tmp_path / "deep" / "again"
    make_demo(again, seed=3, subjects=COUNT, spacing=SPACING)
    first = digests(folder)
    assert digests(again) == first
    times = [path.stat().st_mtime_ns for path in sorted(again.rglob("*"))]
    make_demo(again, seed=3, subjects=COUNT, spacing=SPACING)
    assert [path.stat().st_mtime_ns for path in sorted(again.rglob("*"))] == times
    assert [path.name for path in again.parent.iterdir()] == ["again"]


def test_refuses_another_folder_and_other_arguments(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(AtlasmithError, match=r"Remove it, or choose"):
        make_demo(tmp_path)
    with pytest.raises(AtlasmithError, match=r"Remove it, or choose"):
        make_demo(folder, seed=4, subjects=COUNT, spacing=SPACING)
    with pytest.raises(AtlasmithError, match="at least 3 subjects"):
        make_demo(tmp_path / "new", subjects=2)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_the_truth_gets_the_best_grades(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = grade(plant(folder, tmp_path, load_brain(SPACING)))
    assert values["error_before_median"] > values["error_affine_median"] > 2
    assert values["error_warped_median"] < 0.1 and values["error_warped_p95"] < 0.5
    assert values["dice_majority"] == 0.8
    assert values["age_effect_ratio"] == pytest.approx(1, abs=0.05)
    written = {row["metric"]: row for row in read_tsv(tmp_path / "scores" / "demo.tsv")}
    assert float(written["error_warped_median"]["value"]) == pytest.approx(values["error_warped_median"])
    assert written["error_warped_median"]["unit"] == "mm"
    assert str(tmp_path / "report.html") in capsys.readouterr().out


def test_swapped_directions_and_a_reduced_age_effect_get_poor_grades(folder: Path, tmp_path: Path) -> None:
    values = grade(plant(folder, tmp_path, load_brain(SPACING), swapped=True, growth=0.5, blur=3))
    assert values["template_blur"] == pytest.approx(3, abs=0.5)
    assert values["error_warped_median"] > 5
    assert values["age_effect_ratio"] == pytest.approx(0.5, abs=0.05)


def test_grading_refuses_incomplete_and_wrong_results(folder: Path, tmp_path: Path) -> None:
    config = plant(folder, tmp_path, load_brain(SPACING))
    layout = config.layout
    template = read_image(layout.template_image)
    noise = np.random.default_rng(0).random(template.data.shape, dtype=np.float32)
    write_image(layout.template_image, noise, template.grid)
    with pytest.raises(AtlasmithError, match="correlation"):
        age_effect(layout, folder)
    write_json(layout.template_description, {"cohort": {"1": {"covariates": {"age": 30}}}})
    with pytest.raises(AtlasmithError, match=r"template\.evaluate_at"):
        grade(config)
    layout.forward(names(folder)[0]).unlink()
    with pytest.raises(AtlasmithError, match="Run `register` first"):
        grade(config)
    layout.summary.unlink()
    with pytest.raises(AtlasmithError, match="Run the whole workflow"):
        grade(config)
