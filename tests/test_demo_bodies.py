"""Demo cohorts of other bodies than a stripped brain, and that nothing depends on a body's size."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy.ndimage import binary_erosion, distance_transform_edt
from validator import errors, find_issues

from atlasmith.cli.main import build_parser
from atlasmith.config import load_config
from atlasmith.core.errors import AtlasmithError
from atlasmith.core.grid import Array
from atlasmith.core.intensity import find_background, looks_like_hounsfield
from atlasmith.core.world import transform_points
from atlasmith.demo.warping import apply_affine
from atlasmith.io.files import read_json, write_json
from atlasmith.io.images import Image, read_image, read_labels
from atlasmith.io.tables import read_tsv
from atlasmith.io.transforms import read_composite

pytest.importorskip("nilearn", reason="nilearn isn't installed: pip install 'atlasmith[demo]'")

from planted_run import names, plant

from atlasmith.demo import abdomen, grade, make_demo
from atlasmith.demo.base import Base, render
from atlasmith.demo.bodies import BODIES, MOUSE_SCALE
from atlasmith.demo.generator import base_labels_file, truth_file, truth_layout

ROOT = Path(__file__).parents[1]
COUNT, SEED = 4, 3
SPACINGS = {"brain": 8.0, "head": 8.0, "abdomen": 4.0, "mouse": 8.0}


@pytest.fixture(scope="module")
def bases() -> dict[str, Base]:
    return {body: load(SPACINGS[body]) for body, load in BODIES.items()}


@pytest.fixture(scope="module")
def cohorts(tmp_path_factory: pytest.TempPathFactory, bases: dict[str, Base]) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bodies")
    with pytest.MonkeyPatch.context() as patch:
        for body, base in bases.items():
            patch.setitem(BODIES, body, lambda spacing, base=base: base)
            make_demo(folder / body, SEED, COUNT, SPACINGS[body], body)
    return {body: folder / body for body in bases}


def scans(folder: Path) -> list[tuple[Image, Array]]:
    """Images and labels of a cohort."""
    suffix = truth_layout(folder).suffix
    stems = [f"sub-{name}/anat/sub-{name}" for name in names(folder)]
    return [
        (read_image(folder / f"{s}_{suffix}.nii.gz"), labels_of(folder, f"{s}_dseg.nii.gz")) for s in stems
    ]


def labels_of(folder: Path, name: str) -> Array:
    return read_labels(folder / "derivatives" / "manual" / name).data


def border(data: Array) -> Array:
    """The outermost voxels."""
    inner = np.ones(data.shape, bool)
    inner[1:-1, 1:-1, 1:-1] = False
    return data[inner]


def below_brain(image: Image, labels: Array) -> float:
    """How far a field of view reaches below the labels, mm, along the axis nearest to the vertical."""
    axis = int(np.abs(image.grid.affine[2, :3]).argmax())
    slices = np.flatnonzero(labels.any(axis=tuple(other for other in range(3) if other != axis)))
    return float(slices[0] * image.grid.spacing[axis])


@pytest.mark.parametrize("body", BODIES)
def test_cohorts_are_bids_and_hold_all_labels(body: str, cohorts: dict[str, Path]) -> None:
    folder = cohorts[body]
    for part in ("", "derivatives/manual", "derivatives/truth"):
        assert errors(find_issues(folder / part)) == []
    table = {int(row["index"]) for row in read_tsv(folder / "derivatives" / "manual" / "dseg.tsv")}
    for image, labels in scans(folder):
        assert set(np.unique(labels)) == table | {0}
        assert image.data.shape == labels.shape


@pytest.mark.parametrize("body", [body for body in BODIES if body != "brain"])
def test_examples_fit_their_cohorts(body: str, bases: dict[str, Base]) -> None:
    path = ROOT / "examples" / f"{body}.yaml"
    assert f"--out demo-{body} --body {body}\n" in path.read_text().splitlines(keepends=True)[0]
    config = load_config(path)
    assert config.cohort.bids == Path(f"demo-{body}") and config.layout.suffix == bases[body].scanner.suffix
    assert config.template.spacing == 3 * bases[body].unit


def test_the_command_line_names_all_bodies(tmp_path: Path) -> None:
    parser = next(a for a in build_parser()._actions if a.dest == "verb").choices["demo"]
    (option,) = (action for action in parser._actions if action.dest == "body")
    assert all(f"`{body}`" in option.help for body in BODIES) and option.default == "brain"
    with pytest.raises(AtlasmithError, match="brain"):
        make_demo(tmp_path / "new", body="brian")


def test_a_cohort_of_an_earlier_version_counts_as_made(cohorts: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    shutil.copytree(cohorts["brain"], folder)
    path = truth_file(folder)
    truth = read_json(path)
    assert truth["made_by"].pop("body") == "brain" and truth.pop("base")
    write_json(path, truth)
    changed = path.stat().st_mtime_ns
    make_demo(folder, SEED, COUNT, SPACINGS["brain"])
    assert path.stat().st_mtime_ns == changed and base_labels_file(truth_layout(folder)).exists()
    with pytest.raises(AtlasmithError, match="Remove it, or choose"):
        make_demo(folder, SEED, COUNT, SPACINGS["brain"], "head")


def test_a_head_has_the_brains_labels_and_transforms(
    bases: dict[str, Base], cohorts: dict[str, Path]
) -> None:
    brain, head = (bases[body] for body in ("brain", "head"))
    points = np.random.default_rng(0).uniform((-70, -105, -70), (70, 72, 80), (50_000, 3))
    (image, labels), (around, same) = (render(base, points) for base in (brain, head))
    assert labels.any() and np.array_equal(labels, same)
    deep = brain.region_fraction(points) > 254
    np.testing.assert_allclose(around[deep], image[deep], atol=0.01)
    for name in names(cohorts["brain"]):
        for direction in ("forward", "inverse"):
            paths = [getattr(truth_layout(cohorts[body]), direction)(name) for body in ("brain", "head")]
            expected, found = (
                [transform_points([s], torch.tensor(points)) for s in read_composite(p)] for p in paths
            )
            for a, b in zip(expected, found, strict=True):
                torch.testing.assert_close(a, b, rtol=0, atol=1e-3)


def test_skulls_are_dark_between_brain_and_scalp(bases: dict[str, Base]) -> None:
    head = bases["head"]
    brain = head.soft_labels[-1] > 127
    top = (slice(None), slice(None), slice(190, None))  # above the ears, where nothing else is near
    distance = distance_transform_edt(~brain[top])
    inside, skull, scalp = (
        float(head.image[top][mask].mean())
        for mask in (brain[top], (distance > 5) & (distance < 9), (distance > 12) & (distance < 15))
    )
    assert skull < 0.6 * inside and skull < 0.6 * scalp


def test_heads_are_surrounded_by_noise_and_end_at_different_heights(cohorts: dict[str, Path]) -> None:
    folder = cohorts["head"]
    assert read_json(folder / "T1w.json")["SkullStripped"] is False
    assert read_json(cohorts["brain"] / "T1w.json")["SkullStripped"] is True
    necks = []
    for image, labels in scans(folder):
        air = border(image.data)
        assert np.mean(air == 0) < 0.05 and air.std() > 0
        assert find_background(image.data) is None
        assert image.data[labels > 0].mean() > 10 * np.median(air)
        necks.append(below_brain(image, labels))
    assert np.ptp(necks) > 20 and min(necks) > 10


def test_abdomens_are_in_hounsfield_units(cohorts: dict[str, Path]) -> None:
    for image, labels in scans(cohorts["abdomen"]):
        assert looks_like_hounsfield(image.data)
        assert np.median(image.data[labels == abdomen.AORTA]) > 100  # thin, and so mixed with fat
        for label in (abdomen.LIVER, abdomen.SPLEEN, abdomen.RIGHT_KIDNEY):
            inside = image.data[binary_erosion(labels == label)]
            assert np.median(inside) == pytest.approx(abdomen.TISSUE[label], abs=12)
        liver = image.data[binary_erosion(labels == abdomen.LIVER, iterations=2)]
        assert 8 < liver.std() < 25
        assert np.percentile(image.data[labels == abdomen.VERTEBRAE], 90) > 250


def test_organs_of_the_abdomen_shift_by_centimeters(cohorts: dict[str, Path]) -> None:
    """Between subjects, relative to the spine, without the pose; and the inverse follows."""
    truth = truth_layout(cohorts["abdomen"])
    base = read_labels(base_labels_file(truth))
    voxels = {label: np.argwhere(base.data == label)[::40] for label in abdomen.LABELS}
    points = {k: torch.from_numpy(apply_affine(base.grid.affine, v)).double() for k, v in voxels.items()}
    shifts: dict[int, list[Array]] = {label: [] for label in abdomen.LABELS}
    for name in names(cohorts["abdomen"]):
        forward, inverse = read_composite(truth.forward(name)), read_composite(truth.inverse(name))
        moved = {k: (transform_points(forward[:1], p) - p).mean(dim=0).numpy() for k, p in points.items()}
        for label in abdomen.LABELS:
            shifts[label].append(moved[label] - moved[abdomen.VERTEBRAE])
        everywhere = torch.cat([*points.values()])
        back = transform_points(inverse, transform_points(forward, everywhere))
        gap = torch.linalg.vector_norm(back - everywhere, dim=1)
        assert gap.median() < 0.3 and gap.max() < 2
    spans = {label: float(np.ptp(np.array(moved)[:, 2])) for label, moved in shifts.items()}
    assert spans[abdomen.LIVER] > 20 and spans[abdomen.STOMACH] > 20 and spans[abdomen.SPLEEN] > 15
    assert max(spans.values()) < 60 and spans[abdomen.AORTA] < 15


def test_abdomens_are_not_graded_for_age(
    bases: dict[str, Base], cohorts: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = grade(plant(cohorts["abdomen"], tmp_path, bases["abdomen"]))
    assert values["error_before_median"] > values["error_affine_median"] > 5
    assert values["error_warped_median"] < 0.3 and values["dice_majority"] == 0.8
    assert not [name for name in values if name.startswith(("age", "template"))]
    assert "age" not in capsys.readouterr().out.replace(str(tmp_path), "")
    assert "age" not in read_json(truth_file(cohorts["abdomen"]))


def test_a_mouse_is_the_brain_in_another_size(cohorts: dict[str, Path]) -> None:
    brain, mouse = cohorts["brain"], cohorts["mouse"]
    assert (brain / "participants.tsv").read_bytes() == (mouse / "participants.tsv").read_bytes()
    scale = np.diag([MOUSE_SCALE] * 3 + [1.0])
    files = [path.relative_to(brain) for path in sorted(brain.rglob("*.nii.gz"))]
    assert len(files) == 2 * COUNT + 3
    for path in files:
        large, small = nib.load(brain / path), nib.load(mouse / path)
        size = MOUSE_SCALE if path.name.endswith("_velocity.nii.gz") else 1
        assert np.array_equal(small.dataobj, size * np.asarray(large.dataobj)), path
        np.testing.assert_allclose(small.affine, scale @ large.affine, rtol=1e-6)


def test_grades_follow_the_size(bases: dict[str, Base], cohorts: dict[str, Path], tmp_path: Path) -> None:
    expected, found = (
        grade(plant(cohorts[body], tmp_path / body, bases[body], growth=0.5, blur=3, spacing=5))
        for body in ("brain", "mouse")
    )
    for name, value in expected.items():
        power = 1 if name.startswith("error") or name == "template_blur" else 3 * name.startswith("age_slope")
        assert found[name] == pytest.approx(value * MOUSE_SCALE**power, rel=2e-3), name


def test_heads_are_graded_for_age(bases: dict[str, Base], cohorts: dict[str, Path], tmp_path: Path) -> None:
    values = grade(plant(cohorts["head"], tmp_path, bases["head"], spacing=5))
    assert values["error_warped_median"] < 0.1
    assert values["age_effect_ratio"] == pytest.approx(1, abs=0.05)
