"""Stage `score` over all subjects: scores, their summary, comparisons of fusion methods."""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from atlasmith.config import Config
from atlasmith.evaluation import metrics, statistics
from atlasmith.evaluation.inputs import mask_points, object_mask, parse_score
from atlasmith.evaluation.scores import COLUMNS, Row, make_score, to_rows
from atlasmith.evaluation.template_scores import displacement_scores, sharpness_scores
from atlasmith.io.files import require
from atlasmith.io.images import read_image
from atlasmith.io.tables import MEAN, Subject, read_cohort, read_tsv, write_tsv
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
STAGES = ["affine", "template", "register", "propagate", "fuse"]


def summarize(config: Config) -> None:
    """Gather all subjects' scores, add the template's, and write summary and comparisons.

    scores.tsv: a row for each score; the template's have the subject `template`. summary.tsv: mean, SD,
    median, number and 95 % bootstrap interval over subjects. comparisons.tsv: each pair of fusion methods,
    by the mean Dice of the same subjects.

    Args:
        config: The run's config.

    Raises:
        AtlasmithError: When a subject wasn't scored.
    """
    layout = config.layout
    subjects = sorted(read_cohort(layout.cohort), key=lambda subject: subject.id)
    groups: dict[tuple[str, ...], array[float]] = {}
    dice: dict[str, dict[str, float]] = {method: {} for method in config.fusion.methods}

    def collected() -> Iterator[Row]:
        """All rows; no more of them stays in memory than the summaries need."""
        for row in _all_rows(config, subjects):
            groups.setdefault(tuple(row[key] for key in GROUPED_BY), array("d")).append(row["value"])
            key = row["stage"], row["label"], row["metric"]
            if row["method"] in dice and key == ("fuse", MEAN, "dice"):
                dice[row["method"]][row["subject"]] = row["value"]
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
    reference = read_image(require(layout.affine_reference, "affine-reference"))
    grid, mask = template.grid, object_mask(template, layout.template_image)
    sharp, blurred, inside = (grid.squeeze(data) for data in (template.data, reference.data, mask))
    spacing = grid.tensor_spacing
    # Both are on the scale of the normalized images.
    ratio = metrics.gradient_energy_ratio(sharp, blurred, inside, spacing)
    transforms = (read_composite(require(layout.forward(s.id), "register")) for s in subjects)
    scores = [
        *sharpness_scores(sharp, inside, spacing),
        make_score("gradient_energy_ratio", ratio),
        *displacement_scores(
            transforms, len(subjects), mask_points(grid, mask), config.seed, config.score.bootstrap
        ),
    ]
    return [
        *to_rows("template", "template", "affine_reference", sharpness_scores(blurred, inside, spacing)),
        *to_rows("template", "template", "template", scores),
    ]


def _summary_rows(config: Config, groups: Mapping[tuple[str, ...], array[float]]) -> list[Row]:
    """A row for each group of scores, in the order of the stages."""
    return [
        {
            **dict(zip(GROUPED_BY, group, strict=True)),
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
