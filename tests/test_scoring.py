"""Metrics against closed forms and SimpleITK, and stage `score` on an output folder with known results."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from atlasmith.config import Config, parse_config
from atlasmith.core.errors import AtlasmithError
from atlasmith.core.grid import Array, DisplacementField, Grid
from atlasmith.evaluation import metrics, score_subject, statistics, summarize
from atlasmith.io.files import write_json
from atlasmith.io.images import read_grid, write_image
from atlasmith.io.tables import Subject, read_tsv, scan_id, write_cohort, write_tsv
from atlasmith.io.transforms import write_affine, write_composite


def counts(truth: Any, predicted: Any, labels: int = 1) -> metrics.Counts:
    return metrics.count_overlap(np.asarray(truth), np.asarray(predicted), labels)


# Overlap


def test_overlaps_have_their_closed_form() -> None:
    truth, predicted = np.zeros((10, 10), int), np.zeros((10, 10), int)
    truth[:4, :5] = 1  # 20 voxels
    predicted[2:8, :5] = 1  # 30 voxels, 10 of them in both
    expected = {
        "dice": 20 / 50,
        "jaccard": 10 / 40,
        "volume_similarity": 1 - 10 / 50,
        "precision": 10 / 30,
        "recall": 10 / 20,
    }
    found = {
        name: metric(counts(truth, predicted))[0] for name, metric in metrics.metrics_of("overlap").items()
    }
    assert found == pytest.approx(expected)


@pytest.mark.parametrize("name", metrics.metrics_of("overlap"))
def test_overlap_of_equal_and_empty_maps(name: str) -> None:
    metric = metrics.METRICS[name]
    full, empty = np.ones((3, 3), int), np.zeros((3, 3), int)
    assert metric(counts(full, full))[0] == 1
    assert np.isnan(metric(counts(empty, empty))[0])
    assert metric(counts(full, empty))[0] == 0
    assert metric(counts(empty, full))[0] == 0


@pytest.mark.parametrize("shape", [(12, 11), (9, 8, 7)])
def test_overlaps_agree_with_simpleitk(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    labels = np.array([2, 5, 1000])
    truth, predicted = rng.choice([0, *labels], (2, *shape))
    measures = sitk.LabelOverlapMeasuresImageFilter()
    measures.Execute(sitk.GetImageFromArray(truth), sitk.GetImageFromArray(predicted))
    both = counts(metrics.label_index(truth, labels), metrics.label_index(predicted, labels), 3)
    for index, label in enumerate(map(int, labels)):
        assert metrics.dice(both)[index] == pytest.approx(measures.GetDiceCoefficient(label))
        assert metrics.jaccard(both)[index] == pytest.approx(measures.GetJaccardCoefficient(label))
        # SimpleITK's is 2 (A - B) / (A + B).
        similarity = 1 - abs(measures.GetVolumeSimilarity(label)) / 2
        assert metrics.volume_similarity(both)[index] == pytest.approx(similarity)


def test_label_index_ignores_other_labels() -> None:
    data = np.array([-3, 0, 4, 5, 7, 99])
    assert metrics.label_index(data, np.array([-3, 4, 7])).tolist() == [1, 0, 2, 0, 3, 0]


# Surfaces


def surfaces(truth: Array, predicted: Array, spacing: tuple[float, ...]) -> dict[str, float]:
    distances = metrics.surface_distances(truth, predicted, spacing)
    return {name: metric(distances) for name, metric in metrics.metrics_of("surface").items()}


@pytest.mark.parametrize("voxel", [1.0, 0.5])
def test_concentric_spheres_are_their_radii_apart(voxel: float) -> None:
    spacing = (voxel, voxel, voxel / 2)
    x, y, z = (np.arange(0, 30, s) - 15 for s in spacing)
    radius = np.sqrt(x[:, None, None] ** 2 + y[:, None] ** 2 + z**2)
    found = surfaces(radius < 8, radius < 13, spacing)
    assert found["assd_mm"] == pytest.approx(5, abs=voxel / 2)
    assert found["hd95_mm"] == pytest.approx(5, abs=voxel / 2)


@pytest.mark.parametrize(("dimensions", "axis"), [(2, 0), (2, 1), (3, 0), (3, 1), (3, 2)])
def test_shifted_cubes_are_the_shift_apart_in_mm(dimensions: int, axis: int) -> None:
    spacing = (1.0, 0.5, 3.0)[:dimensions]
    truth = np.zeros((20,) * dimensions, bool)
    truth[(slice(4, 12),) * dimensions] = True
    for name, value in surfaces(truth, truth, spacing).items():
        assert value == (1 if name == "surface_dice_1mm" else 0)
    found = surfaces(truth, np.roll(truth, 3, axis), spacing)
    assert found["hd_mm"] == found["hd95_mm"] == pytest.approx(3 * spacing[axis])
    assert 0 < found["assd_mm"] < 3 * spacing[axis]
    assert found == surfaces(np.roll(truth, 3, axis), truth, spacing)


# Deformations and images


def test_jacobian_scores() -> None:
    determinant = np.array([-1.0, 0.0, np.e, 1 / np.e, 1e9])
    mask = np.array([True, True, True, True, False])
    assert metrics.nonpositive_jacobian_percent(determinant, mask) == 50
    assert metrics.sd_log_jacobian(determinant, mask) == pytest.approx(1)
    assert np.isnan(metrics.nonpositive_jacobian_percent(determinant, ~mask & False))
    assert np.isnan(metrics.sd_log_jacobian(determinant, determinant < 0))


def test_inverse_consistency_is_in_mm() -> None:
    grid = Grid((6, 6, 6), np.diag([2.0, 2, 3, 1]))
    there = DisplacementField(grid, np.full((6, 6, 6, 3), [1.0, 0, 0]))
    back = DisplacementField(grid, np.full((6, 6, 6, 3), [-1.0, 0.3, 0.4]))
    points = np.array([[4.0, 4, 6], [5, 6, 7]])
    assert metrics.inverse_consistency_mm([there], [back], points) == pytest.approx(0.5)
    assert metrics.displacements_mm([there], points) == pytest.approx(np.array([[1, 0, 0], [1, 0, 0]]))


def test_mean_displacement_is_the_length_of_the_mean() -> None:
    mean_field = np.array([[3.0, 4, 0], [0, 0, 0]])
    assert metrics.mean_displacement_mm(mean_field) == pytest.approx(2.5)
    assert metrics.max_displacement_mm(mean_field) == pytest.approx(5)


@pytest.mark.parametrize("name", metrics.IMAGE_METRICS)
def test_image_metrics_of_equal_similar_and_constant_images(name: str) -> None:
    metric = metrics.IMAGE_METRICS[name]
    rng = np.random.default_rng(1)
    fixed = rng.random(5000).astype(np.float32)
    best = {"ncc": 1, "nmse": 0, "nmi": 2}[name]
    assert metric(fixed, fixed) == pytest.approx(best)
    assert metric(fixed, 30 * fixed + 7) == pytest.approx(best, abs=1e-2)
    near, far = (metric(fixed, fixed + amount * rng.random(5000)) for amount in (0.3, 3))
    assert abs(near - best) < abs(far - best)
    assert np.isnan(metric(fixed, np.full_like(fixed, 0.1)))


def test_ncc_is_the_correlation() -> None:
    fixed, moved = np.random.default_rng(2).random((2, 100)).astype(np.float32)
    assert metrics.ncc(fixed, moved) == pytest.approx(np.corrcoef(fixed, moved)[0, 1], rel=1e-5)


@pytest.mark.parametrize("shape", [(40, 36), (24, 22, 20)])
def test_blur_lowers_sharpness_and_scale_does_not(shape: tuple[int, ...]) -> None:
    image = ndimage.gaussian_filter(np.random.default_rng(3).random(shape), 1.0)
    mask = np.ones(shape, bool)
    spacing = (1.5,) * len(shape)
    sharp = metrics.sharpness_per_mm(image, mask, spacing)
    blurred = ndimage.gaussian_filter(image, 1.5)
    assert metrics.sharpness_per_mm(blurred, mask, spacing) < 0.8 * sharp
    assert metrics.sharpness_per_mm(250 * image - 30, mask, spacing) == pytest.approx(sharp)
    assert metrics.sharpness_per_mm(image, mask, (3.0,) * len(shape)) == pytest.approx(sharp / 2)
    assert np.isnan(metrics.sharpness_per_mm(np.ones(shape), mask, spacing))


def test_gradient_energy_measures_the_blur_of_an_edge() -> None:
    """A ramp of height 1 over w voxels has the same mean gradient for every w, and 1 / w of the energy."""
    for width in (2, 8):
        edge = np.clip((np.arange(60.0) - 30) / width, 0, 1)[:, None].repeat(4, axis=1)
        everywhere = np.ones_like(edge, bool)
        # Central differences spread each end of the ramp over two voxels: (w - 1) + 2 / 4 whole squares.
        energy = metrics.gradient_energy_per_mm2(edge, everywhere, (0.5, 0.5))
        assert energy == pytest.approx(4 * (width - 0.5) / width**2 / 60)


def test_sharpness_of_a_ramp() -> None:
    ramp = np.broadcast_to(np.arange(101.0)[:, None], (101, 5))
    assert metrics.sharpness_per_mm(ramp, np.ones_like(ramp, bool), (0.5, 0.5)) == pytest.approx(2 / 98)


def test_entropy_focus_goes_from_a_point_to_a_uniform_image() -> None:
    point = np.zeros(64)
    point[3] = 5
    assert metrics.entropy_focus_criterion(point) == 0
    assert metrics.entropy_focus_criterion(np.full(64, 2.0)) == pytest.approx(1)
    blurred = ndimage.gaussian_filter1d(point, 2)
    assert 0 < metrics.entropy_focus_criterion(blurred) < 1
    assert metrics.entropy_focus_criterion(7 * blurred) == pytest.approx(
        metrics.entropy_focus_criterion(blurred)
    )
    assert np.isnan(metrics.entropy_focus_criterion(np.zeros(64)))


def test_foreground_is_the_object_with_its_holes() -> None:
    image = np.random.default_rng(4).normal(0, 0.01, (30, 30))
    image[5:20, 8:25] += 1
    image[10:13, 10:13] = 0
    expected = np.zeros((30, 30), bool)
    expected[5:20, 8:25] = True
    assert (metrics.foreground(image) == expected).all()


# Statistics


def test_bootstrap_interval_has_its_nominal_coverage() -> None:
    rng = np.random.default_rng(5)
    samples = rng.normal(3, 2, (400, 40))
    intervals = np.array([statistics.bootstrap_interval(sample, 0, 500) for sample in samples])
    covered = np.mean((intervals[:, 0] <= 3) & (intervals[:, 1] >= 3))
    assert 0.90 <= covered <= 0.98
    assert statistics.bootstrap_interval(samples[0], 0, 500) == tuple(intervals[0])
    assert statistics.bootstrap_interval(samples[0], 1, 500) != tuple(intervals[0])


def test_summary_skips_undefined_values() -> None:
    found = statistics.summary(np.array([1.0, np.nan, 3.0, 8.0]), 0, 200)
    assert (found["mean"], found["median"], found["n"]) == (4, 3, 3)
    assert found["sd"] == pytest.approx(np.std([1, 3, 8], ddof=1))
    assert found["ci95_low"] < 4 < found["ci95_high"]
    alone = statistics.summary(np.array([2.0]), 0, 200)
    assert (alone["mean"], alone["n"]) == (2, 1)
    assert np.isnan([alone["sd"], alone["ci95_low"], alone["ci95_high"]]).all()
    assert statistics.summary(np.array([np.nan]), 0, 200)["n"] == 0


def test_scans_of_a_participant_count_once() -> None:
    values = np.array([1.0, 2.0, np.nan, 6.0, np.nan, 4.0])
    found = statistics.participant_means(values, ["b", "a", "b", "a", "c", "d"])
    np.testing.assert_array_equal(found, [1, 4, np.nan, 4])
    # Repeating each score changes no interval and no test, as it would if scans were independent.
    scores = np.random.default_rng(0).normal(0.3, 1, 20)
    owners = [str(k // 4) for k in range(80)]
    repeated = statistics.participant_means(np.repeat(scores, 4), owners)
    assert statistics.summary(repeated, 0, 200) == pytest.approx(statistics.summary(scores, 0, 200))
    assert statistics.wilcoxon_p(repeated) == pytest.approx(statistics.wilcoxon_p(scores))


def test_wilcoxon() -> None:
    # Ten positive differences: the most extreme of 2**10 signs, on either side.
    assert statistics.wilcoxon_p(np.arange(1.0, 11)) == pytest.approx(2 / 2**10)
    assert statistics.wilcoxon_p(np.array([1.0, -2, np.nan])) == 1
    assert statistics.wilcoxon_p(np.zeros(5)) == 1
    assert np.isnan(statistics.wilcoxon_p(np.array([np.nan])))


# The stage

LABELS = [3, 70]
METRICS = list(metrics.SEGMENTATION_METRICS)


class Cohort:
    """An output folder with what `score` reads: two atlases, two targets; `flat` makes it 2-D."""

    def __init__(self, folder: Path, flat: bool) -> None:
        self.folder = folder
        self.shape = (24, 20, 1) if flat else (24, 20, 12)
        self.grid = Grid(
            self.shape, np.array([[1.0, 0, 0, -11], [0, 1.5, 0, -14], [0, 0, 2, -11], [0, 0, 0, 1]])
        )
        self.config = parse_config(
            {
                "output": str(folder / "out"),
                "cohort": {"bids": str(folder)},
                "template": {"name": "Test"},
                "fusion": {"methods": ["majority", "local_weighted"]},
                "score": {"bootstrap": 50, "metrics": METRICS},
            }
        )
        self.layout = self.config.layout
        self.ids = {"a1": "atlas", "a2": "atlas", "t1": "target", "t2": "target"}
        self.image = ndimage.gaussian_filter(np.random.default_rng(6).random(self.shape), 1).astype(
            np.float32
        )
        self.image[:4] = self.image[-4:] = self.image[:, :3] = self.image[:, -3:] = 0
        self.truth = np.zeros(self.shape, int)
        self.truth[6:12, 5:15] = 3
        self.truth[12:18, 5:15] = 70
        self.truth[0, 0] = 70  # far from the rest: outside the crop
        self.write()

    def native(self, path: Path, data: Array) -> Path:
        """`data` of the closest-RAS grid in a file whose first axis runs to the left (LAS)."""
        path.parent.mkdir(parents=True, exist_ok=True)
        flipped = self.grid.affine @ np.diag([-1.0, 1, 1, 1])
        flipped[:3, 3] += self.grid.affine[:3, 0] * (self.shape[0] - 1)
        data = data[::-1, :, 0] if self.shape[2] == 1 else data[::-1]
        nib.Nifti1Image(data.astype(np.float32), flipped).to_filename(path)
        return path

    def write(self) -> None:
        layout, grid = self.layout, self.grid
        subjects = []
        for name, role in self.ids.items():
            image = self.native(self.folder / f"sub-{name}_T1w.nii.gz", 500 * self.image)
            labels = (
                None if name == "t2" else self.native(self.folder / f"sub-{name}_dseg.nii.gz", self.truth)
            )
            subjects.append(Subject(name, role, image, labels))
            write_affine(layout.affine(name), np.eye(4))
            self.native(layout.preprocessed(name), 0.5 * self.image)
            write_image(layout.affine_image(name), self.image**2, grid)
            write_image(layout.warped(name), self.image, grid)
            field = np.full((*self.shape, 3), [2.0 if name == "t1" else 0.0, 0, 0])
            write_composite(layout.forward(name), [DisplacementField(grid, field), np.diag([2.0, 1, 1, 1])])
            write_tsv(
                layout.registration_table(name),
                [{"metric": "inverse_consistency_mm", "value": 0.25, "unit": "mm"}],
                ["metric", "value", "unit"],
            )
        write_cohort(layout.cohort, subjects, [])
        write_tsv(
            layout.labels, [{"index": i, "name": f"label {i}"} for i in (0, *LABELS)], ["index", "name"]
        )
        write_image(layout.template_image, self.image, grid)
        write_image(layout.affine_reference, ndimage.gaussian_filter(self.image, 1.5), grid)
        for name in ("t1", "t2"):
            like = self.folder / f"sub-{name}_T1w.nii.gz"
            write_image(layout.segmentation(name, "majority"), self.truth, grid, like)
            write_image(layout.segmentation(name, "local_weighted"), self.shifted(self.truth), grid, like)
        self.write_propagated(grid.cropped(self.box), self.truth[self.box])

    @property
    def box(self) -> tuple[slice, slice, slice]:
        return slice(4, 20), slice(3, 18), slice(0, self.shape[2])

    @staticmethod
    def shifted(data: Array) -> Array:
        return np.roll(data, 1, axis=0)

    def write_propagated(self, grid: Grid, good: Array) -> None:
        stack = np.stack([good, np.zeros_like(good)], axis=-1)
        write_image(self.layout.propagated_labels("t1"), stack, grid)
        write_json(self.layout.propagated_sidecar("t1"), {"atlases": ["a1", "a2"]})

    def scores(self, name: str) -> dict[tuple[str, str, str, str], float]:
        score_subject(self.config, name)
        return {
            (row["stage"], row["method"], row["label"], row["metric"]): float(
                row["value"].replace("n/a", "nan")
            )
            for row in read_tsv(self.layout.subject_scores(name))
        }


@pytest.fixture(params=[False, True], ids=["3d", "2d"])
def cohort(tmp_path: Path, request: pytest.FixtureRequest) -> Cohort:
    return Cohort(tmp_path, request.param)


def dice_of(a: Array, b: Array) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def test_native_files_are_las(cohort: Cohort) -> None:
    path = cohort.folder / "sub-t1_T1w.nii.gz"
    assert nib.aff2axcodes(nib.load(path).affine) == ("L", "A", "S")
    assert read_grid(path).same_as(cohort.grid)


def test_every_subject_is_scored_against_the_template(cohort: Cohort) -> None:
    scores = cohort.scores("a1")
    # The native image is the template in other units, so that aligning centroids recovers it.
    assert scores["affine", "initial", "n/a", "ncc"] == pytest.approx(1, abs=1e-5)
    assert scores["register", "warped", "n/a", "ncc"] == pytest.approx(1)
    assert 0.5 < scores["affine", "affine", "n/a", "ncc"] < 0.999
    assert scores["register", "warped", "n/a", "inverse_consistency_mm"] == 0.25
    assert {stage for stage, *_ in scores} == {"affine", "register"}
    assert set(cohort.scores("t2")) == set(scores)  # a target without labels


def test_fused_segmentations_are_scored_in_the_native_grid(cohort: Cohort) -> None:
    scores = cohort.scores("t1")
    assert scores["fuse", "majority", "mean", "dice"] == 1
    assert scores["fuse", "majority", "mean", "hd95_mm"] == 0
    shifted = cohort.shifted(cohort.truth)
    expected = [dice_of(cohort.truth == label, shifted == label) for label in LABELS]
    for label, value in zip(LABELS, expected, strict=True):
        assert scores["fuse", "local_weighted", str(label), "dice"] == pytest.approx(value)
    assert scores["fuse", "local_weighted", "mean", "dice"] == pytest.approx(np.mean(expected))
    assert scores["fuse", "local_weighted", "3", "hd95_mm"] == pytest.approx(1)
    right = (cohort.truth > 0) & (cohort.truth == shifted)
    pooled = 2 * right.sum() / ((cohort.truth > 0).sum() + (shifted > 0).sum())
    assert scores["fuse", "local_weighted", "all", "volume_weighted_dice"] == pytest.approx(pooled)
    fused = {key[1:] for key in scores if key[0] == "fuse"}
    methods = ("majority", "local_weighted")
    assert fused == {
        *itertools.product(methods, ("3", "70", "mean"), metrics.metrics_of("overlap", "surface")),
        *itertools.product(methods, ("all",), metrics.metrics_of("multilabel")),
    }


def test_atlases_are_scored_as_segmented_by_all_others(cohort: Cohort) -> None:
    assert not any(stage == "leave_one_out" for stage, *_ in cohort.scores("a1"))  # not segmented
    layout, like = cohort.layout, cohort.folder / "sub-a1_T1w.nii.gz"
    box = cohort.grid.cropped(cohort.box)
    for method, labels in (("majority", cohort.truth), ("local_weighted", cohort.shifted(cohort.truth))):
        write_image(layout.segmentation("a1", method), labels, cohort.grid, like)
    write_image(layout.propagated_labels("a1"), cohort.truth[cohort.box][..., None], box)
    write_json(layout.propagated_sidecar("a1"), {"atlases": ["a2"]})
    target, atlas = cohort.scores("t1"), cohort.scores("a1")
    assert not any(stage in ("fuse", "propagate") for stage, *_ in atlas)
    fused = {key[1:]: value for key, value in atlas.items() if key[0] == "leave_one_out"}
    for key, value in target.items():
        if key[0] == "fuse":
            np.testing.assert_equal(fused[key[1:]], value)
    # The target has an empty atlas, too, of which each score is half.
    single = target["propagate", "single_atlas", "mean", "dice"]
    assert fused["single_atlas", "mean", "dice"] == pytest.approx(2 * single)
    without = cohort.config.fusion.model_copy(update={"quality": False})
    cohort.config = cohort.config.model_copy(update={"fusion": without})
    assert not any(stage == "leave_one_out" for stage, *_ in cohort.scores("a1"))


def test_truth_outside_the_crop_counts_as_missed(cohort: Cohort) -> None:
    inside = np.zeros(cohort.shape, bool)
    inside[cohort.box] = True
    expected = [dice_of(cohort.truth == label, (cohort.truth == label) & inside) for label in LABELS]
    assert expected[0] == 1 and expected[1] < 1
    scores = cohort.scores("t1")
    for label, value in zip(LABELS, expected, strict=True):  # the second of two atlases is empty
        assert scores["propagate", "single_atlas", str(label), "dice"] == pytest.approx(value / 2)
    assert scores["propagate", "single_atlas", "mean", "dice"] == pytest.approx(np.mean(expected) / 2)


def test_coarser_propagated_labels_are_resampled_to_the_native_grid(cohort: Cohort) -> None:
    grid = cohort.grid.cropped(cohort.box).resampled(4.5)
    coarse = np.zeros(grid.shape, int)
    coarse[: grid.shape[0] // 2] = 3
    cohort.write_propagated(grid, coarse)
    # Each coarse voxel is that of the fine voxels whose centers lie in it.
    steps = [len(range(n)[s]) / m for n, s, m in zip(cohort.shape, cohort.box, grid.shape, strict=True)]
    fine = coarse[
        np.ix_(*((np.arange(round(m * s)) // s).astype(int) for m, s in zip(grid.shape, steps, strict=True)))
    ]
    predicted = np.zeros(cohort.shape, int)
    predicted[cohort.box] = fine
    expected = dice_of(cohort.truth == 3, predicted == 3)
    assert cohort.scores("t1")["propagate", "single_atlas", "3", "dice"] == pytest.approx(expected / 2)


def test_a_missing_label_is_zero_overlap_and_no_distance(cohort: Cohort) -> None:
    empty = np.where(cohort.truth == 3, 3, 0)
    like = cohort.folder / "sub-t1_T1w.nii.gz"
    write_image(cohort.layout.segmentation("t1", "majority"), empty, cohort.grid, like)
    scores = cohort.scores("t1")
    assert scores["fuse", "majority", "70", "dice"] == 0
    assert np.isnan(scores["fuse", "majority", "70", "hd95_mm"])
    assert scores["fuse", "majority", "mean", "dice"] == 0.5
    assert scores["fuse", "majority", "mean", "hd95_mm"] == 0


def test_summary(cohort: Cohort) -> None:
    for name in cohort.ids:
        score_subject(cohort.config, name)
    summarize(cohort.config)
    layout = cohort.layout
    rows = {(r["stage"], r["method"], r["label"], r["metric"]): r for r in read_tsv(layout.summary)}
    displacement = rows["register", "warped", "n/a", "inverse_consistency_mm"]
    assert (displacement["n"], displacement["mean"], displacement["unit"]) == ("4", "0.25", "mm")
    assert rows["fuse", "majority", "mean", "dice"]["n"] == "1"
    # One of four subjects moves by 2 mm; its affine is no part of the template.
    for metric in ("mean_displacement_mm", "max_displacement_mm"):
        assert float(rows["template", "template", "n/a", metric]["mean"]) == pytest.approx(0.5)
    low, value, high = (
        float(rows["template", "template", "n/a", f"centrality{part}_mm"]["mean"])
        for part in ("_low", "", "_high")
    )
    # One of four subjects displaced is compatible with a true value of 0.
    assert value == pytest.approx(0.5) and low == 0 and high > 0.5
    assert float(rows["template", "template", "n/a", "gradient_energy_ratio"]["mean"]) > 1.2
    assert rows["template", "template", "n/a", "sharpness_per_mm"]["unit"] == "1/mm"
    scores = read_tsv(layout.scores)
    assert list(dict.fromkeys(scan_id(row) for row in scores)) == ["a1", "a2", "t1", "t2", "n/a"]
    (comparison,) = read_tsv(layout.comparisons)
    assert (comparison["method_a"], comparison["method_b"], comparison["n"]) == (
        "majority",
        "local_weighted",
        "1",
    )
    assert float(comparison["mean_difference"]) > 0
    assert comparison["wilcoxon_p_bh"] == comparison["wilcoxon_p"] == "1"
    first = layout.summary.read_bytes()
    summarize(cohort.config)
    assert layout.summary.read_bytes() == first


def test_errors_name_the_remedy(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path, flat=True)
    with pytest.raises(AtlasmithError, match="'a1'"):
        score_subject(cohort.config, "a11")
    values = cohort.config.resolved()
    values["score"]["metrics"] = ["dise"]
    with pytest.raises(AtlasmithError, match="Did you mean 'dice'"):
        score_subject(Config.model_validate(values), "a1")
    with pytest.raises(AtlasmithError, match=re.escape("Run `atlasmith score` first")):
        summarize(cohort.config)
    cohort.layout.segmentation("t1", "majority").unlink()
    with pytest.raises(AtlasmithError, match=re.escape("Run `atlasmith fuse` first")):
        score_subject(cohort.config, "t1")
    cohort.layout.warped("t1").unlink()
    with pytest.raises(AtlasmithError, match=re.escape("Run `atlasmith register` first")):
        score_subject(cohort.config, "t1")
