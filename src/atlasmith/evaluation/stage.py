"""Stage `score` of one subject: it and the report alone read a target's labels."""

from __future__ import annotations

import numpy as np

from atlasmith.config import Config
from atlasmith.core.errors import AtlasmithError, look_up
from atlasmith.core.grid import Array
from atlasmith.core.labels import label_index
from atlasmith.core.sampling import MASK_THRESHOLD
from atlasmith.evaluation.inputs import object_mask, parse_score
from atlasmith.evaluation.metrics import SEGMENTATION_METRICS
from atlasmith.evaluation.registration_scores import align_centroids, image_scores
from atlasmith.evaluation.scores import COLUMNS, Row, Score, label_scores, to_rows
from atlasmith.evaluation.segmentation_scores import evaluate, single_atlas_dice
from atlasmith.io.channels import present_channels
from atlasmith.io.exclusion import valid_voxels
from atlasmith.io.files import require
from atlasmith.io.images import Image, read_image, read_labels, read_mask
from atlasmith.io.layout import Layout
from atlasmith.io.tables import MEAN, Subject, read_cohort, read_label_values, read_tsv, write_tsv
from atlasmith.io.transforms import read_composite
from atlasmith.training.dataset import field_of_view, known_mask


def score_subject(config: Config, subject_id: str) -> None:
    """Write the scores of one subject, in long format.

    Of every subject: the similarity of each channel to the template with aligned centroids, after the affine
    and after the warp, without what the config excludes, and what the registration measured. Of targets with
    labels, and of atlases that all others segmented (stage `leave_one_out`), also: Dice of single propagated
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
        rows += _segmentation_rows(config, subject, "propagate", "fuse")
    elif subject.role == "atlas" and _is_segmented(config, subject):
        rows += _segmentation_rows(config, subject, "leave_one_out", "leave_one_out")
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
    scan = _Scan(layout, subject, template, mask)
    compared = scan.compared_voxels()
    rows: list[Row] = []
    for index in scan.channels:
        channel = layout.channels[index]
        fixed = read_image(require(layout.template_channel(channel), "template")).data[compared[index]]
        affine = read_image(require(layout.affine_image(subject.id, channel), "affine"))
        warped = read_image(require(layout.warped(subject.id, channel), "register"))
        images = [
            ("affine", "initial", scan.centered(scan.preprocessed(channel))),
            ("affine", "affine", affine.data),
            ("register", "warped", warped.data),
        ]
        for stage, method, data in images:
            scores = image_scores(fixed, data[compared[index]], channel if index else None)
            rows += to_rows(subject.id, stage, method, scores)
    measured = [
        Score(None, row["metric"], parse_score(row["value"]), row["unit"])
        for row in read_tsv(require(layout.registration_table(subject.id), "register"))
    ]
    return rows + to_rows(subject.id, "register", "warped", measured)


class _Scan:
    """A scan that is compared with the template, whose object in its field of view is a mask."""

    def __init__(self, layout: Layout, subject: Subject, template: Image, template_mask: Array) -> None:
        self.layout, self.subject = layout, subject
        self.template, self.template_mask = template, template_mask
        self.channels = np.flatnonzero(present_channels(layout, subject)).tolist()
        first = layout.channels[self.channels[0]]
        self.mask = object_mask(self.preprocessed(first), layout.preprocessed(subject.id, first))

    def preprocessed(self, channel: str) -> Image:
        """A preprocessed channel."""
        return read_image(require(self.layout.preprocessed(self.subject.id, channel), "preprocess"))

    def centered(self, image: Image) -> Array:
        """An image on the scan's grid, on the template's grid with aligned centroids (X, Y, Z)."""
        return align_centroids(image, self.mask, self.template, self.template_mask)

    def compared_voxels(self) -> Array:
        """Where each channel (C, X, Y, Z) has data, and after no step shows what the config excludes."""
        layout, subject, grid = self.layout, self.subject, self.template.grid
        known = np.stack([grid.unsqueeze(part) for part in known_mask(layout, subject, grid).numpy()])
        compared: Array = known & self.template_mask
        if subject.exclude is not None:
            valid = read_mask(layout.valid_mask(subject.id))
            excluded = self.centered(Image((~valid.data).astype(np.float32), valid.grid))
            forward = read_composite(require(layout.forward(subject.id), "register"))
            compared &= valid_voxels(layout, subject, forward, grid) & (excluded <= 1 - MASK_THRESHOLD)
        return compared


def _is_segmented(config: Config, atlas: Subject) -> bool:
    """Tell whether an atlas was segmented by all others, as the calibration of predicted quality does."""
    methods = config.fusion.methods if config.fusion.quality else []
    return any(config.layout.segmentation(atlas.id, method).exists() for method in methods)


def _segmentation_rows(config: Config, subject: Subject, single_stage: str, fused_stage: str) -> list[Row]:
    """Scores of single propagated atlases, and of each fusion method, as of the stages given."""
    assert subject.labels is not None
    layout = config.layout
    labels = _labels(layout)
    truth = read_labels(subject.labels)
    propagated = read_labels(require(layout.propagated_labels(subject.id), "propagate"))
    single = single_atlas_dice(label_index(truth.data, labels), truth.grid, propagated, labels)
    rows = to_rows(subject.id, single_stage, "single_atlas", label_scores("dice", labels, single))
    for method in config.fusion.methods:
        path = require(layout.segmentation(subject.id, method), "fuse")
        fused = read_labels(path)
        if not fused.grid.same_as(truth.grid):
            raise AtlasmithError(f"{path} isn't on the grid of {subject.labels}. Run `atlasmith fuse` again.")
        scores = evaluate(fused.data, truth.data, truth.grid.spacing, labels, config.score.metrics)
        rows += to_rows(subject.id, fused_stage, method, scores)
    return rows


def _labels(layout: Layout) -> Array:
    """The cohort's labels to score, rising, without background."""
    labels = read_label_values(require(layout.labels, "cohort"))
    if not labels:
        raise AtlasmithError(
            f"{layout.labels} names no label but background. List the labels in it, and run again."
        )
    return np.array(labels)
