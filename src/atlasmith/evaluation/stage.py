"""The score stage measures all that was made. It and the report alone read a target's labels."""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from atlasmith.config import Config
from atlasmith.core.errors import AtlasmithError, look_up
from atlasmith.core.grid import Array, DisplacementField, Grid
from atlasmith.core.sampling import sample
from atlasmith.core.world import resample, resampling_coordinates
from atlasmith.evaluation import metrics, statistics
from atlasmith.io.images import Image, read_image, read_labels
from atlasmith.io.tables import (
    ALL,
    MEAN,
    MISSING,
    Subject,
    read_cohort,
    read_label_values,
    read_tsv,
    write_tsv,
)
from atlasmith.io.transforms import read_composite
from atlasmith.training.dataset import field_of_view

Row = dict[str, Any]

COLUMNS = ["subject", "stage", "method", "label", "metric", "value", "unit"]
SUMMARISED = ["stage", "method", "label", "metric", "unit"]
SUMMARY = [*SUMMARISED, "mean", "sd", "median", "n", "ci95_low", "ci95_high"]
COMPARISONS = [
    "metric",
    "method_a",
    "method_b",
    "n",
    "mean_difference",
    "ci95_low",
    "ci95_high",
    "wilcoxon_p",
    "wilcoxon_p_bh",
]
STAGES = ["affine", "template", "register", "propagate", "fuse"]
CENTRALITY_POINTS = 2000  # of the object, at which the mean displacement gets its interval
CENTRALITY_ALL = 2_000_000  # of all subjects together at most, which bounds memory


def score_subject(config: Config, subject_id: str) -> None:
    """Write the scores of one subject, without `sub-`, in long format.

    Every subject: similarity to the template of its image shifted onto it, after affine and after warping,
    and what the registration measured. Targets with labels also: Dice of single propagated atlases, and
    `score.metrics` of each fused segmentation, all in the native grid. Raises `AtlasmithError` for an unknown
    subject or metric, and when an earlier stage hasn't run.
    """
    for name in config.score.metrics:
        look_up(metrics.SEGMENTATION, name, "metric in score.metrics")
    layout = config.layout
    subject = look_up({s.id: s for s in read_cohort(layout.cohort)}, subject_id, "subject")
    rows = _registration_rows(config, subject)
    if subject.role == "target" and subject.labels is not None:
        rows += _segmentation_rows(config, subject, subject.labels)
    write_tsv(layout.subject_scores(subject_id), rows, COLUMNS)
    means = [f"{r['method']} {r['value']:.4f}" for r in rows if (r["label"], r["metric"]) == (MEAN, "dice")]
    print(f"score: sub-{subject_id}" + (f", mean Dice {', '.join(means)}" if means else ""), flush=True)


def summarize(config: Config) -> None:
    """Gather all subjects' scores, add the template's, and write summary and comparisons.

    scores.tsv: a row a score; the template's have the subject `template`. summary.tsv: mean, SD, median,
    number and 95 % bootstrap interval over subjects. comparisons.tsv: each pair of fusion methods, by the
    mean Dice of the same subjects. Raises `AtlasmithError` when a subject wasn't scored.
    """
    layout = config.layout
    subjects = sorted(read_cohort(layout.cohort), key=lambda subject: subject.id)
    groups: dict[tuple[str, ...], array[float]] = {}
    dice: dict[str, dict[str, float]] = {method: {} for method in config.fusion.methods}

    def passing() -> Iterator[Row]:
        """All rows, of which no more is kept than the summaries need."""
        for subject in subjects:
            for row in read_tsv(_existing(layout.subject_scores(subject.id), "score")):
                yield {**row, "value": _number(row["value"])}
        yield from _template_rows(config, [subject for subject in subjects if subject.in_template])

    def noted() -> Iterator[Row]:
        for row in passing():
            groups.setdefault(tuple(row[key] for key in SUMMARISED), array("d")).append(row["value"])
            if row["method"] in dice and (row["stage"], row["label"], row["metric"]) == (
                "fuse",
                MEAN,
                "dice",
            ):
                dice[row["method"]][row["subject"]] = row["value"]
            yield row

    write_tsv(layout.scores, noted(), COLUMNS)
    write_tsv(layout.summary, _summary_rows(config, groups), SUMMARY)
    write_tsv(layout.comparisons, _comparison_rows(config, dice), COMPARISONS)
    print(f"score: summary of {len(subjects)} subjects in {layout.summary}", flush=True)


def _existing(path: Path, stage: str) -> Path:
    if not path.exists():
        raise AtlasmithError(f"{path} is missing. Run `atlasmith {stage}` first.")
    return path


def _number(text: str) -> float:
    return np.nan if text == MISSING else float(text)


def _row(
    subject: str, stage: str, method: str, metric: str, value: float, label: int | str | None = None
) -> Row:
    return {
        "subject": subject,
        "stage": stage,
        "method": method,
        "label": MISSING if label is None else str(label),
        "metric": metric,
        "value": float(value),
        "unit": metrics.unit_of(metric),
    }


# Registration


def _registration_rows(config: Config, subject: Subject) -> list[Row]:
    layout = config.layout
    template = read_image(_existing(layout.template_image, "template"))
    _existing(layout.affine(subject.id), "affine")
    # A crop says nothing about what it doesn't show.
    seen = template.grid.unsqueeze(field_of_view(layout, subject, template.grid).numpy())
    mask = _foreground(template, layout.template_image) & seen
    fixed = template.data[mask]
    affine = read_image(_existing(layout.affine_image(subject.id), "affine"))
    warped = read_image(_existing(layout.warped(subject.id), "register"))
    images = [
        ("affine", "initial", _centered(subject.image, template, mask)),
        ("affine", "affine", affine.data),
        ("register", "warped", warped.data),
    ]
    rows = [
        _row(subject.id, stage, method, name, metric(fixed, data[mask]))
        for stage, method, data in images
        for name, metric in metrics.SIMILARITY.items()
    ]
    for row in read_tsv(_existing(layout.registration_table(subject.id), "register")):
        rows.append(
            _row(subject.id, "register", "warped", row["metric"], _number(row["value"]))
            | {"unit": row["unit"]}
        )
    return rows


def _foreground(image: Image, path: Path) -> Array:
    """The object's mask (X, Y, Z), not empty. Holes are filled in the plane if the image is one."""
    mask = image.grid.unsqueeze(metrics.foreground(image.grid.squeeze(image.data)))
    if not mask.any():
        raise AtlasmithError(f"{path} is constant. Look at the log of the stage that wrote it.")
    return mask


def _world(grid: Grid, mask: Array) -> Array:
    """World points (N, 3) of the voxels in `mask` (X, Y, Z)."""
    return np.argwhere(mask) @ grid.affine[:3, :3].T + grid.affine[:3, 3]


def _centered(path: Path, template: Image, mask: Array) -> Array:
    """An image on the template's grid, the centroid of its foreground on that of the template's `mask`."""
    image = read_image(path)
    shift = np.eye(4)
    centroid = _world(image.grid, _foreground(image, path)).mean(axis=0)
    shift[:3, 3] = centroid - _world(template.grid, mask).mean(axis=0)
    # A file that runs to the left is read as a view with negative strides, which torch refuses.
    moving = torch.from_numpy(np.ascontiguousarray(image.grid.squeeze(image.data)))[None, None]
    return template.grid.unsqueeze(resample(moving, image.grid, [shift], template.grid)[0, 0].numpy())


# Segmentation


def _segmentation_rows(config: Config, subject: Subject, truth_path: Path) -> list[Row]:
    layout = config.layout
    labels = _labels(layout.labels)
    image = read_labels(truth_path)
    truth = metrics.label_index(image.data, labels)
    propagated = read_labels(_existing(layout.propagated_labels(subject.id), "propagate"))
    single = _single_atlas_dice(truth, image.grid, propagated, labels)
    rows = _label_rows(subject.id, "propagate", "single_atlas", "dice", labels, single)
    for method in config.fusion.methods:
        path = _existing(layout.segmentation(subject.id, method), "fuse")
        fused = read_labels(path)
        if not fused.grid.same_as(image.grid):
            raise AtlasmithError(f"{path} isn't on the grid of {truth_path}. Run `atlasmith fuse` again.")
        predicted = metrics.label_index(fused.data, labels)
        counts = metrics.count_overlap(truth, predicted, len(labels))
        surfaces = metrics.surface_scores(
            image.grid.squeeze(truth),
            image.grid.squeeze(predicted),
            len(labels),
            image.grid.tensor_spacing,
            [name for name in config.score.metrics if name in metrics.SURFACE],
        )
        for name in config.score.metrics:
            if name in metrics.MULTILABEL:
                rows.append(_row(subject.id, "fuse", method, name, metrics.MULTILABEL[name](counts), ALL))
            else:
                values = surfaces[name] if name in surfaces else metrics.OVERLAP[name](counts)
                rows += _label_rows(subject.id, "fuse", method, name, labels, values)
    return rows


def _labels(path: Path) -> Array:
    """The labels to score, sorted; background is none."""
    labels = read_label_values(_existing(path, "cohort"))
    if not labels:
        raise AtlasmithError(f"{path} names no label but background. List the labels in it, and run again.")
    return np.array(labels)


def _label_rows(
    subject: str, stage: str, method: str, metric: str, labels: Array, values: Array
) -> list[Row]:
    """A row a label, and one of their mean, which skips labels whose score isn't defined."""
    rows = [_row(subject, stage, method, metric, v, int(n)) for n, v in zip(labels, values, strict=True)]
    return [*rows, _row(subject, stage, method, metric, _mean(values), MEAN)]


def _mean(values: Array) -> float:
    """The mean without NaN; NaN if nothing is left."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else np.nan


def _single_atlas_dice(truth: Array, native: Grid, propagated: Image, labels: Array) -> Array:
    """Dice (L,) of each atlas of `propagated` (X, Y, Z, N) in the native grid, the mean over atlases.

    truth: (X, Y, Z), by `label_index`. Truth outside the propagated labels' grid counts as missed.
    """
    box = _box_of(propagated.grid, native)
    if box is None:
        points = resampling_coordinates(propagated.grid, [], native)
    size = len(labels)
    total = np.bincount(truth.ravel(), minlength=size + 1)[1:]
    scores = []
    for atlas in np.moveaxis(propagated.data.reshape(*propagated.grid.shape, -1), -1, 0):
        predicted = metrics.label_index(atlas, labels)
        if box is None:
            moving = torch.from_numpy(propagated.grid.squeeze(predicted)).float()[None, None]
            predicted = native.unsqueeze(sample(moving, points, "nearest")[0, 0].numpy().astype(np.int32))
            counts = metrics.count_overlap(truth, predicted, size)
        else:
            inside = metrics.count_overlap(truth[box], predicted, size)
            counts = metrics.Counts(inside.both, total, inside.predicted)
        scores.append(metrics.dice(counts))
    return np.array([_mean(values) for values in np.array(scores).T])


def _box_of(part: Grid, whole: Grid) -> tuple[slice, ...] | None:
    """The box of `whole` that `part` is, or None where `part` is no crop of it."""
    start = np.rint(np.linalg.inv(whole.affine)[:3] @ part.affine[:, 3]).astype(int)
    if (start < 0).any() or (start + part.shape > whole.shape).any():
        return None
    box = tuple(slice(int(a), int(a) + n) for a, n in zip(start, part.shape, strict=True))
    return box if whole.cropped(box).same_as(part) else None


# Over subjects


def _template_rows(config: Config, subjects: Sequence[Subject]) -> list[Row]:
    layout = config.layout
    template = read_image(_existing(layout.template_image, "template"))
    reference = read_image(_existing(layout.affine_reference, "affine-reference"))
    grid, mask = template.grid, _foreground(template, layout.template_image)
    rows, energies = [], []
    for method, image in (("affine_reference", reference), ("template", template)):
        place = grid.squeeze(image.data), grid.squeeze(mask), grid.tensor_spacing
        energies.append(metrics.gradient_energy_per_mm2(*place))
        values = {
            "sharpness_per_mm": metrics.sharpness_per_mm(*place),
            "gradient_energy_per_mm2": energies[-1],
            "entropy_focus_criterion": metrics.entropy_focus_criterion(image.data[mask]),
        }
        rows += [_row("template", "template", method, name, value) for name, value in values.items()]
    # Both are on the scale of the normalized images.
    rows.append(_row("template", "template", "template", "gradient_energy_ratio", energies[1] / energies[0]))
    points = _world(grid, mask)
    total = np.zeros_like(points)
    count = min(CENTRALITY_POINTS, max(1, CENTRALITY_ALL // len(subjects)))
    some = np.random.default_rng(config.seed).permutation(len(points))[:count]
    sampled = []
    for subject in subjects:
        steps = read_composite(_existing(layout.forward(subject.id), "register"))
        # The pose is none of the template's business: the fields come first, on the template's grid.
        displacements = metrics.displacements_mm(
            [step for step in steps if isinstance(step, DisplacementField)], points
        )
        total += displacements
        sampled.append(displacements[some].astype(np.float32))
    mean, maximum = metrics.mean_displacement_mm(total / len(subjects))
    rows.append(_row("template", "template", "template", "mean_displacement_mm", mean))
    rows.append(_row("template", "template", "template", "max_displacement_mm", maximum))
    names = ("centrality_mm", "centrality_low_mm", "centrality_high_mm")
    interval = metrics.centrality_mm(np.stack(sampled), config.seed, config.score.bootstrap)
    rows += [_row("template", "template", "template", *pair) for pair in zip(names, interval, strict=True)]
    return rows


def _summary_rows(config: Config, groups: Mapping[tuple[str, ...], Sequence[float]]) -> list[Row]:
    """A row for each of `SUMMARISED`, in the order of the stages."""
    return [
        {
            **dict(zip(SUMMARISED, group, strict=True)),
            **statistics.summary(np.array(values), config.seed, config.score.bootstrap),
        }
        for group, values in sorted(groups.items(), key=lambda item: STAGES.index(item[0][0]))
    ]


def _comparison_rows(config: Config, scores: Mapping[str, Mapping[str, float]]) -> list[Row]:
    """Each pair of fusion methods: the differences `method_a` - `method_b` of the subjects' mean Dice, which
    are given by method and subject.

    wilcoxon_p_bh: `wilcoxon_p`, adjusted for the number of rows.
    """
    compared = []
    for a, b in itertools.combinations(config.fusion.methods, 2):
        differences = np.array(
            [value - scores[b].get(subject, np.nan) for subject, value in scores[a].items()]
        )
        known = statistics.summary(differences, config.seed, config.score.bootstrap)
        compared.append(
            {
                "metric": "dice",
                "method_a": a,
                "method_b": b,
                "n": known["n"],
                "mean_difference": known["mean"],
                "ci95_low": known["ci95_low"],
                "ci95_high": known["ci95_high"],
                "wilcoxon_p": statistics.wilcoxon_p(differences),
            }
        )
    adjusted = statistics.benjamini_hochberg(np.array([row["wilcoxon_p"] for row in compared]))
    return [{**row, "wilcoxon_p_bh": p} for row, p in zip(compared, adjusted, strict=True)]
