"""Stage `score` of one subject: it and the report alone read a target's labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from atlasmith.config import Config
from atlasmith.core.errors import AtlasmithError, look_up
from atlasmith.core.grid import Array
from atlasmith.core.labels import label_index
from atlasmith.evaluation.inputs import object_mask, parse_score
from atlasmith.evaluation.metrics import SEGMENTATION_METRICS
from atlasmith.evaluation.registration_scores import align_centroids, image_scores
from atlasmith.evaluation.scores import COLUMNS, Row, Score, label_scores, to_rows
from atlasmith.evaluation.segmentation_scores import evaluate, single_atlas_dice
from atlasmith.io.files import require
from atlasmith.io.images import Image, read_image, read_labels
from atlasmith.io.layout import Layout
from atlasmith.io.tables import MEAN, Subject, read_cohort, read_label_values, read_tsv, write_tsv
from atlasmith.training.dataset import field_of_view


def score_subject(config: Config, subject_id: str) -> None:
    """Write the scores of one subject, in long format.

    Of every subject: the similarity of its image to the template with aligned centroids, after the affine and
    after the warp, and what the registration measured. Of targets with labels also: Dice of single propagated
    atlases, and `score.metrics` of each fused segmentation, all in the native grid.

    Args:
        config: The run's config.
        subject_id: Without `sub-`.

    Raises:
        AtlasmithError: For an unknown subject or metric, and when an earlier stage hasn't run.
    """
    for name in config.score.metrics:
        look_up(SEGMENTATION_METRICS, name, "metric in score.metrics")
    layout = config.layout
    subject = look_up({s.id: s for s in read_cohort(layout.cohort)}, subject_id, "subject")
    rows = _registration_rows(layout, subject)
    if subject.role == "target" and subject.labels is not None:
        rows += _segmentation_rows(config, subject)
    write_tsv(layout.subject_scores(subject_id), rows, COLUMNS)
    means = [f"{r['method']} {r['value']:.4f}" for r in rows if (r["label"], r["metric"]) == (MEAN, "dice")]
    print(f"score: sub-{subject_id}" + (f", mean Dice {', '.join(means)}" if means else ""), flush=True)


def _registration_rows(layout: Layout, subject: Subject) -> list[Row]:
    """Similarity to the template after each step, within its object, and the registration's own table."""
    template = read_image(require(layout.template_image, "template"))
    require(layout.affine(subject.id), "affine")
    # Only where the subject's image has data.
    covered = template.grid.unsqueeze(field_of_view(layout, subject, template.grid).numpy())
    mask = object_mask(template, layout.template_image) & covered
    affine = read_image(require(layout.affine_image(subject.id), "affine"))
    warped = read_image(require(layout.warped(subject.id), "register"))
    images = [
        ("affine", "initial", _centered(layout.preprocessed(subject.id), template, mask)),
        ("affine", "affine", affine.data),
        ("register", "warped", warped.data),
    ]
    rows: list[Row] = []
    for stage, method, data in images:
        rows += to_rows(subject.id, stage, method, image_scores(template.data[mask], data[mask]))
    measured = [
        Score(None, row["metric"], parse_score(row["value"]), row["unit"])
        for row in read_tsv(require(layout.registration_table(subject.id), "register"))
    ]
    return rows + to_rows(subject.id, "register", "warped", measured)


def _centered(path: Path, template: Image, template_mask: Array) -> Array:
    """A preprocessed image on the template's grid, with aligned centroids."""
    image = read_image(require(path, "preprocess"))
    return align_centroids(image, object_mask(image, path), template, template_mask)


def _segmentation_rows(config: Config, subject: Subject) -> list[Row]:
    """Scores of single propagated atlases, and of each fusion method."""
    assert subject.labels is not None
    layout = config.layout
    labels = _labels(layout)
    truth = read_labels(subject.labels)
    propagated = read_labels(require(layout.propagated_labels(subject.id), "propagate"))
    single = single_atlas_dice(label_index(truth.data, labels), truth.grid, propagated, labels)
    rows = to_rows(subject.id, "propagate", "single_atlas", label_scores("dice", labels, single))
    for method in config.fusion.methods:
        path = require(layout.segmentation(subject.id, method), "fuse")
        fused = read_labels(path)
        if not fused.grid.same_as(truth.grid):
            raise AtlasmithError(f"{path} isn't on the grid of {subject.labels}. Run `atlasmith fuse` again.")
        scores = evaluate(fused.data, truth.data, truth.grid.spacing, labels, config.score.metrics)
        rows += to_rows(subject.id, "fuse", method, scores)
    return rows


def _labels(layout: Layout) -> Array:
    """The cohort's labels to score, rising, without background."""
    labels = read_label_values(require(layout.labels, "cohort"))
    if not labels:
        raise AtlasmithError(
            f"{layout.labels} names no label but background. List the labels in it, and run again."
        )
    return np.array(labels)
