"""Section `Subjects to review`: failures, and the subjects at the end of each score."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from atlasmith.report.markup import number_text, table, words
from atlasmith.report.results import FOLDING, Results, json_at, table_at

PER_REASON = 5  # subjects listed at most


def subjects_to_review(results: Results) -> str:
    """List subjects whose results need review, and those with the lowest scores, with the reason."""
    method = words(results.last_method)
    quality = {
        subject.id: json_at(results.layout.segmentation_sidecar(subject.id, results.last_method))
        for subject in results.subjects
    }
    rows = [
        (f"sub-{name}", "affine alignment needs review: correlation", number_text(value))
        for name, value in far_below(results.values("affine", "affine", "ncc")).items()
    ]
    rows += [
        (f"sub-{r['atlas']}", f"atlas: {r['finding']}", "")
        for r in table_at(results.layout.atlas_qc)
        if r["finding"]
    ]
    rows += [
        (
            f"sub-{name}",
            f"segmentation by {method} needs review: expected Dice",
            number_text(known["ExpectedDice"] or 0),
        )
        for name, known in quality.items()
        if known.get("NeedsReview")
    ]
    predicted = {name: known.get("PredictedDice") for name, known in quality.items()}
    folding = results.values("register", "warped", FOLDING)
    for reason, values, sign in (
        ("lowest Dice", results.dice(), 1),
        ("lowest correlation with the template", results.similarity(), 1),
        ("most folded voxels, %", {name: value for name, value in folding.items() if value > 0}, -1),
        ("lowest predicted Dice", {name: v for name, v in predicted.items() if v is not None}, 1),
    ):
        ranked = sorted((sign * value, name) for name, value in values.items())
        rows += [(f"sub-{name}", reason, number_text(sign * value)) for value, name in ranked[:PER_REASON]]
    return table(["subject", "reason", "value"], rows, text_columns=2) if rows else ""


def far_below(values: Mapping[str, float]) -> dict[str, float]:
    """Select values more than three interquartile ranges below the first quartile: far out (Tukey 1977)."""
    if not values:
        return {}
    first, third = np.percentile(list(values.values()), [25, 75])
    return {name: value for name, value in values.items() if value < first - 3 * (third - first)}
