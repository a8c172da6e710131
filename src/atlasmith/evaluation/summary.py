"""Stage `score` over all subjects: scores, their summary, comparisons of fusion methods."""

from __future__ import annotations

import itertools
import sys
from array import array
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from atlasmith.config import Config
from atlasmith.core.grid import Array, Grid
from atlasmith.evaluation import metrics, statistics
from atlasmith.evaluation.inputs import mask_points, object_mask, parse_score
from atlasmith.evaluation.scores import COLUMNS, Row, Score, make_score, to_rows
from atlasmith.evaluation.template_scores import displacement_scores, sharpness_scores
from atlasmith.io.exclusion import valid_voxels
from atlasmith.io.files import require
from atlasmith.io.images import Image, read_image
from atlasmith.io.layout import Layout
from atlasmith.io.tables import (
    MEAN,
    MISSING,
    Subject,
    participant_of,
    read_cohort,
    read_tsv,
    scan_id,
    write_tsv,
)
from atlasmith.io.transforms import read_composite

GROUPED_BY = ["stage", "method", "label", "metric", "unit"]
SUMMARY_COLUMNS = [*GROUPED_BY, "mean", "sd", "median", "n", "ci95_low", "ci95_high"]
COMPARISON_COLUMNS = [
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
STAGES = ["affine", "template", "register", "leave_one_out", "propagate", "fuse"]


@dataclass
class _Group:
    """Scores that are summarized together, and the participant of each."""

    values: array[float] = field(default_factory=lambda: array("d"))
    participants: list[str] = field(default_factory=list)


def summarize(config: Config) -> None:
    """Gather all scans' scores, add the template's, and write summary and comparisons.

    scores.tsv: a row for each score; the template's have no subject. summary.tsv: mean, SD, median, number
    and 95 % bootstrap interval over participants, of the mean of their scans. comparisons.tsv: each pair of
    fusion methods, by the mean Dice of the same participants.

    Args:
        config: The run's config.

    Raises:
        AtlasmithError: When a subject wasn't scored.
    """
    layout = config.layout
    subjects = sorted(read_cohort(layout.cohort, passed="score"), key=lambda subject: subject.id)
    groups: defaultdict[tuple[str, ...], _Group] = defaultdict(_Group)
    dice: dict[str, dict[str, float]] = {method: {} for method in config.fusion.methods}

    def collected() -> Iterator[Row]:
        """All rows; no more of them stays in memory than the summaries need."""
        for row in _all_rows(config, subjects):
            group = groups[tuple(row[key] for key in GROUPED_BY)]
            group.values.append(row["value"])
            group.participants.append(sys.intern(row.get("participant_id", MISSING)))
            key = row["stage"], row["label"], row["metric"]
            if row["method"] in dice and key == ("fuse", MEAN, "dice"):
                dice[row["method"]][scan_id(row)] = row["value"]
            yield row

    write_tsv(layout.scores, collected(), COLUMNS)
    write_tsv(layout.summary, _summary_rows(config, groups), SUMMARY_COLUMNS)
    write_tsv(layout.comparisons, _comparison_rows(config, dice), COMPARISON_COLUMNS)
    print(f"score: summary of {len(subjects)} subjects in {layout.summary}", flush=True)


def _all_rows(config: Config, subjects: Sequence[Subject]) -> Iterator[Row]:
    """The subjects' scores, then the template's."""
    for subject in subjects:
        for row in read_tsv(require(config.layout.subject_scores(subject.id), "score")):
            yield {**row, "value": parse_score(row["value"])}
    yield from _template_rows(config, [subject for subject in subjects if subject.in_template])


def _template_rows(config: Config, subjects: Sequence[Subject]) -> list[Row]:
    """Sharpness of the affine reference and the template, and the centrality of the template."""
    layout = config.layout
    template = read_image(require(layout.template_image, "template"))
    mask = object_mask(template, layout.template_image)
    learned = mask & _learned_voxels(layout, subjects, template.grid)
    of_reference: list[Score] = []
    of_template: list[Score] = []
    for channel in layout.channels:
        label = None if channel == layout.suffix else channel
        sharp = read_image(require(layout.template_channel(channel), "template"))
        blurred = read_image(require(layout.affine_reference_channel(channel), "affine-reference"))
        found = _sharpness(sharp, blurred, learned, label)
        of_reference += found[0]
        of_template += found[1]
    transforms = (read_composite(require(layout.forward(s.id), "register")) for s in subjects)
    of_template += displacement_scores(
        transforms,
        [subject.participant for subject in subjects],
        mask_points(template.grid, mask),
        config.seed,
        config.score.bootstrap,
    )
    return [
        *to_rows(None, "template", "affine_reference", of_reference),
        *to_rows(None, "template", "template", of_template),
    ]


def _sharpness(
    template: Image, reference: Image, mask: Array, label: str | None
) -> tuple[list[Score], list[Score]]:
    """The sharpness of a channel of the affine reference, and of the template, within a mask (X, Y, Z)."""
    grid = template.grid
    sharp, blurred, inside = (grid.squeeze(data) for data in (template.data, reference.data, mask))
    spacing = grid.tensor_spacing
    # Both are on the scale of the normalized images.
    ratio = metrics.gradient_energy_ratio(sharp, blurred, inside, spacing)
    own = sharpness_scores(sharp, inside, spacing, label)
    own.append(make_score("gradient_energy_ratio", ratio, label))
    return sharpness_scores(blurred, inside, spacing, label), own


def _learned_voxels(layout: Layout, subjects: Sequence[Subject], grid: Grid) -> Array:
    """The template's voxels (X, Y, Z) that aren't excluded in all subjects."""
    if any(subject.exclude is None for subject in subjects):
        return np.ones(grid.shape, dtype=bool)
    learned = np.zeros(grid.shape, dtype=bool)
    for subject in subjects:
        forward = require(layout.forward(subject.id), "register")
        learned |= valid_voxels(layout, subject, read_composite(forward), grid)
    return learned


def _summary_rows(config: Config, groups: Mapping[tuple[str, ...], _Group]) -> list[Row]:
    """A row for each group of scores, in the order of the stages."""
    return [
        {
            **dict(zip(GROUPED_BY, key, strict=True)),
            **statistics.summary(
                statistics.participant_means(np.array(group.values), group.participants),
                config.seed,
                config.score.bootstrap,
            ),
        }
        for key, group in sorted(groups.items(), key=lambda item: STAGES.index(item[0][0]))
    ]


def _comparison_rows(config: Config, scores: Mapping[str, Mapping[str, float]]) -> list[Row]:
    """Each pair of fusion methods: the differences `method_a` - `method_b` of the scans' mean Dice, which are
    given by method and scan, averaged over each participant's scans.

    wilcoxon_p_bh: `wilcoxon_p`, adjusted for the number of rows.
    """
    compared = []
    for a, b in itertools.combinations(config.fusion.methods, 2):
        differences = statistics.participant_means(
            np.array([value - scores[b].get(scan, np.nan) for scan, value in scores[a].items()]),
            [participant_of(scan) for scan in scores[a]],
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
