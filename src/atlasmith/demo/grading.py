"""Grading of a run over a demo cohort against its truth."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from scipy import ndimage
from torch import Tensor

from atlasmith.config import Config
from atlasmith.core.errors import AtlasmithError
from atlasmith.core.grid import Array, Grid
from atlasmith.core.world import transform_points
from atlasmith.demo.anatomy import AGE_MEAN, VENTRICLES, standardize_age
from atlasmith.demo.generator import age_velocity_file, base_labels_file, truth_file, truth_layout
from atlasmith.demo.warping import apply_affine, displace, exponentiate, sample_linear, world_positions
from atlasmith.io.files import read_json
from atlasmith.io.images import Image, read_image, read_labels
from atlasmith.io.layout import Layout
from atlasmith.io.tables import MEAN, MISSING, read_cohort, read_tsv, write_tsv
from atlasmith.io.transforms import LPS, read_affine, read_composite, to_sitk

ALIGNMENTS = ("before", "affine", "warped")
MIN_CORRELATION = 0.7  # of template and truth, for the age effect to be measured
# Voxels of the base.
BLURS = np.arange(0, 6, 0.5).tolist()  # among which the template's is found
REGION = 6  # around the base's ventricles
BRAIN_REGION = 8  # around its labels: all of a stripped brain, and of a head little else
LEVELS = (4.0, 2.0)  # standard deviations of the Gaussians of the alignment


def grade(config: Config) -> dict[str, float]:
    """Grade a run over the demo cohort; writes `scores/demo.tsv` and prints the main values.

    Args:
        config: The run's config.

    Returns:
        By metric: registration error in mm between pairs of subjects, Dice of each fusion method, and, of a
        template that depends on age where the body does, the effect of age on the ventricles.

    Raises:
        AtlasmithError: If the cohort isn't a demo, a stage hasn't run, or the template can't be aligned with
            the truth.
    """
    folder = config.cohort.bids
    if not truth_file(folder).exists():
        raise AtlasmithError(
            f"{truth_file(folder)} is missing: only a cohort made by `atlasmith demo` is graded."
        )
    layout = config.layout
    needed = [layout.summary, layout.template_description, layout.template_image]
    missing = [str(path) for path in needed if not path.exists()]
    if missing:
        raise AtlasmithError(f"missing: {', '.join(missing)}. Run the whole workflow first.")
    values = {**registration_errors(config), **_fused_dice(layout)}
    if "age" in read_json(truth_file(folder)) and "age" in config.template.condition_on:
        values |= age_effect(layout, folder)
    rows = [{"metric": name, "value": value, "unit": _unit(name)} for name, value in values.items()]
    write_tsv(layout.output / "scores" / "demo.tsv", rows, ["metric", "value", "unit"])
    errors = " -> ".join(f"{values[f'error_{alignment}_median']:.2f}" for alignment in ALIGNMENTS)
    print(f"registration error, median, before -> after affine -> after warping: {errors} mm")
    for name in values:
        if name.startswith("dice_"):
            print(f"Dice of {name.removeprefix('dice_')}: {values[name]:.3f}")
    if "age_effect_ratio" in values:
        ratio = values["age_effect_ratio"]
        print(f"age effect on the ventricles, fraction of the planted one: {ratio:.2f}")
    print(f"report: {layout.report}")
    return values


def _unit(metric: str) -> str:
    """The unit of a metric of `grade`."""
    if metric.startswith("error_") or metric == "template_blur":
        return "mm"
    return "ml/decade" if metric.startswith("age_slope") else "1"


def points_in_brain(folder: Path, count: int, seed: int) -> Tensor:
    """Draw points in the labels of the base, such as a brain, that a demo cohort was made from.

    Args:
        folder: The cohort's.
        count: Number of points N.
        seed: Of the random numbers.

    Returns:
        (N, 3), RAS mm.
    """
    base = read_labels(base_labels_file(truth_layout(folder)))
    voxels = np.argwhere(base.data > 0)
    chosen = np.random.default_rng(seed).choice(len(voxels), count, replace=False)
    return torch.from_numpy(apply_affine(base.grid.affine, voxels[chosen])).double()


def registration_errors(config: Config, count: int = 1000) -> dict[str, float]:
    """Compute the registration error over all ordered pairs (i, j) of subjects, at points in j's brain.

    A point in j's world is transformed to i's by the planted transforms, and as each stage has it: before
    (the worlds as they are), after affine, after warping (j to template, template to i). The planted
    transforms include the subjects' ages, so that the error also contains what the template's own change
    with age leaves.

    Args:
        config: The run's config.
        count: Number of points in each brain.

    Returns:
        Median and 95th percentile of each alignment, mm.

    Raises:
        AtlasmithError: If a transform is missing.
    """
    truth, layout = truth_layout(config.cohort.bids), config.layout
    ids = [subject.id for subject in read_cohort(layout.cohort, passed="register")]
    paths = [path(i) for i in ids for path in (layout.affine, layout.forward, layout.inverse)]
    missing = [str(path) for path in paths if not path.exists()]
    if missing:
        raise AtlasmithError(
            f"missing: {', '.join(missing[:3])} ({len(missing)} in all). Run `register` first."
        )
    base_points = points_in_brain(config.cohort.bids, count, config.seed)
    true_forward = {i: read_composite(truth.forward(i)) for i in ids}
    found_forward = {i: read_composite(layout.forward(i)) for i in ids}
    affine = {i: read_affine(layout.affine(i)) for i in ids}
    errors: dict[str, list[Array]] = {alignment: [] for alignment in ALIGNMENTS}
    for j in ids:
        points = transform_points(true_forward[j], base_points)
        in_base = transform_points(read_composite(truth.inverse(j)), points)
        in_template = transform_points(read_composite(layout.inverse(j)), points)
        after_affine = transform_points([np.linalg.inv(affine[j])], points)
        for i in ids:
            if i == j:
                continue
            expected = transform_points(true_forward[i], in_base)
            found = {
                "before": points,
                "affine": transform_points([affine[i]], after_affine),
                "warped": transform_points(found_forward[i], in_template),
            }
            for alignment, mapped in found.items():
                errors[alignment].append(torch.linalg.vector_norm(mapped - expected, dim=1).numpy())
    result = {}
    for alignment, parts in errors.items():
        pooled = np.concatenate(parts)
        result[f"error_{alignment}_median"] = float(np.median(pooled))
        result[f"error_{alignment}_p95"] = float(np.quantile(pooled, 0.95))
    return result


def _fused_dice(layout: Layout) -> dict[str, float]:
    """Mean Dice over labels and targets of each fusion method, from the summary of scores."""
    rows = [
        row
        for row in read_tsv(layout.summary)
        if (row["stage"], row["label"], row["metric"]) == ("fuse", MEAN, "dice") and row["mean"] != MISSING
    ]
    if not rows:
        raise AtlasmithError(
            f"{layout.summary} has no Dice of a fused segmentation. Run `fuse` and `score` first."
        )
    return {f"dice_{row['method']}": float(row["mean"]) for row in rows}


def age_effect(layout: Layout, folder: Path) -> dict[str, float]:
    """Measure how much of the planted change of the ventricles with age a conditional template shows.

    The true brain is rendered at each age of a template image, on the template's grid, under one affine
    alignment to the mean template, and with the Gaussian blur (in steps of half a voxel of the base: half a
    mm in a human brain) that makes it most similar to the mean template. The same is measured on both series:
    the soft volume of dark voxels within 6 voxels of the base's ventricles, where darkness rises linearly
    from none to full around the middle between the region's 2nd percentile and its median, both over the
    whole series.

    Args:
        layout: Of the run.
        folder: Of the demo cohort.

    Returns:
        Both slopes of that volume (ml for a decade), their ratio, the blur (mm), and the correlation of truth
        and template within the brain at mean age.

    Raises:
        AtlasmithError: If there are fewer than three ages, or the correlation is below 0.7.
    """
    templates = _templates_by_age(layout)
    template = read_image(layout.template_image)
    truth = _TrueBrain.aligned_with(template, folder)
    correlation, blur = truth.match_blur(template)
    if not correlation > MIN_CORRELATION:
        raise AtlasmithError(
            f"{layout.template_image}: its correlation with the demo's true brain is {correlation:.2f}, "
            "so the age effect can't be measured. Look at the report: this template is not that brain."
        )
    region = truth.near_ventricles()
    found = [read_image(path).data.ravel()[region] for path in templates.values()]
    planted = [truth.render(age, blur)[region] for age in templates]
    voxel_ml = float(np.prod(template.grid.spacing)) / 1000
    slopes = [
        float(np.polyfit(list(templates), voxel_ml * _dark_voxels(np.stack(series)), 1)[0] * 10)
        for series in (found, planted)
    ]
    return {
        "age_slope_template": slopes[0],
        "age_slope_planted": slopes[1],
        "age_effect_ratio": slopes[0] / slopes[1],
        "template_blur": blur,
        "template_truth_correlation": correlation,
    }


@dataclass(frozen=True, eq=False)
class _TrueBrain:
    """The base on the grid of a template, whose voxels lie at `points` (N, 3) of the base's space."""

    image: Image
    labels: Image
    age_velocity: Image
    grid: Grid
    points: Array

    @classmethod
    def aligned_with(cls, template: Image, folder: Path) -> _TrueBrain:
        """Read the base of a demo cohort and align it with a template."""
        truth = truth_layout(folder)
        image = read_image(truth.template_image)
        affine = _affine_between(template, image)
        points = apply_affine(affine, world_positions(template.grid))
        labels, velocity = read_labels(base_labels_file(truth)), read_image(age_velocity_file(truth))
        return cls(image, labels, velocity, template.grid, points)

    def render(self, age: float, blur: float) -> Array:
        """The image (N,) at an age, with a Gaussian blur, mm."""
        velocity = self.age_velocity
        pull = exponentiate(-standardize_age(age) * velocity.data, velocity.grid)
        image = sample_linear(self.image.data, self.image.grid, displace(self.points, pull, velocity.grid))
        return self._blur(image, blur)

    def _blur(self, image: Array, blur: float) -> Array:
        return ndimage.gaussian_filter(
            image.reshape(self.grid.shape), blur / np.array(self.grid.spacing)
        ).ravel()

    def match_blur(self, template: Image) -> tuple[float, float]:
        """The highest correlation with a template within the brain, at mean age, and its blur, mm."""
        brain = _within(BRAIN_REGION, self.labels.data > 0) & (self.image.data > 0)
        brain = sample_linear(brain.astype(np.float32), self.image.grid, self.points) > 0.5
        sharp, target = self.render(AGE_MEAN, 0), template.data.ravel()[brain]
        blurs = [blur * self.image.grid.spacing[0] for blur in BLURS]
        return max((float(np.corrcoef(self._blur(sharp, blur)[brain], target)[0, 1]), blur) for blur in blurs)

    def near_ventricles(self) -> Array:
        """The voxels (N,) within `REGION` of the ventricles."""
        near = _within(REGION, np.isin(self.labels.data, VENTRICLES))
        return sample_linear(near.astype(np.float32), self.labels.grid, self.points) > 0.5


def _within(distance: int, mask: Array) -> Array:
    """Where a mask (X, Y, Z) is at most `distance` voxels away."""
    (occupied,) = ndimage.find_objects(mask.astype(np.int8))
    box = tuple(slice(max(s.start - distance, 0), s.stop + distance) for s in occupied)
    near = np.zeros(mask.shape, dtype=bool)
    near[box] = ndimage.distance_transform_edt(~mask[box]) <= distance
    return near


def _templates_by_age(layout: Layout) -> dict[float, Path]:
    """Template images by age, with equal other covariates."""
    cohort = read_json(layout.template_description).get("cohort", {})
    by_age: dict[float, Path] = {}
    others: list[dict[str, Any]] = []
    for index, entry in cohort.items():
        covariates = dict(entry["covariates"])
        age = covariates.pop("age", None)
        others.append(covariates)
        if age is not None and covariates == others[0]:
            by_age[float(age)] = layout.template_at(int(index))
    if len(by_age) < 3:
        raise AtlasmithError(
            f"{layout.template_description}: {len(by_age)} template images at different ages; the age effect "
            "needs 3. Set template.condition_on: [age] and template.evaluate_at: {age: [...]}."
        )
    return dict(sorted(by_age.items()))


def _dark_voxels(series: Array) -> Array:
    """Soft number of dark voxels (A,) of each image of a series (A, N)."""
    dark, bright = np.quantile(series, 0.02), np.median(series)
    darkness = (bright - series) / (bright - dark)  # 0 tissue, 1 fluid
    return np.clip(2 * darkness - 0.5, 0, 1).sum(axis=1)


def _affine_between(fixed: Image, moving: Image) -> Array:
    """The affine (4, 4), RAS mm, from points of `fixed` to points of `moving`, the base, by Mattes MI."""
    unit = moving.grid.spacing[0]
    images = [to_sitk(image.data.astype(np.float32), image.grid) for image in (fixed, moving)]
    transform = sitk.CenteredTransformInitializer(
        *images, sitk.AffineTransform(3), sitk.CenteredTransformInitializerFilter.MOMENTS
    )
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)  # sums in the same order, so the same result
    method.SetMetricAsMattesMutualInformation(32)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(1.0 * unit, 1e-3 * unit, 200)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([2, 1])
    method.SetSmoothingSigmasPerLevel([level * unit for level in LEVELS])
    method.SetSmoothingSigmasAreSpecifiedInPhysicalUnits(True)
    method.SetInitialTransform(transform, inPlace=True)
    method.Execute(*images)
    lps = np.eye(4)
    lps[:3, 3] = transform.TransformPoint((0.0, 0.0, 0.0))
    lps[:3, :3] = (
        np.stack([transform.TransformPoint(row) for row in np.eye(3).tolist()], axis=1) - lps[:3, 3:]
    )
    return LPS @ lps @ LPS
