"""The main figures of a run, each with its interval, beside the range of the atlases."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from atlasmith.core.grid import Array
from atlasmith.report.results import FOLDING, Results, is_overall, number
from atlasmith.report.text import number_text, words

MIN_REFERENCE = 5  # atlases that make a range of reference
RANGE = (5, 95)  # percentiles of the atlases
SOURCES = {  # by stage of scores: the stage of those of the atlases that make the range of reference
    "register": ("register", "atlases"),
    "propagate": ("leave_one_out", "atlases, each segmented by all others"),
    "fuse": ("leave_one_out", "atlases, each segmented by all others"),
}


@dataclass(frozen=True)
class Figure:
    """A figure with its interval and the range of reference.

    Args:
        name: What it is.
        unit: Empty, `%` or a unit of length.
        mean: Over subjects.
        interval: The ends of its 95 % interval, or None.
        count: Of subjects.
        reference: The ends of the range of reference, or None.
        reference_text: What the range is of.
    """

    name: str
    unit: str
    mean: float
    interval: tuple[float, float] | None
    count: int
    reference: tuple[float, float] | None
    reference_text: str

    @property
    def text(self) -> str:
        """The mean and its unit."""
        return f"{number_text(self.mean)}{' ' if self.unit else ''}{self.unit}"

    @property
    def alt(self) -> str:
        """The figure in a sentence, for those who can't see its picture."""
        parts = [f"{self.name}: {self.text}"]
        if self.interval:
            parts.append("95 % interval {} to {}".format(*map(number_text, self.interval)))
        if self.reference:
            parts.append("{}: {} to {}".format(self.reference_text, *map(number_text, self.reference)))
        return ", ".join(parts)

    @property
    def places(self) -> dict[str, float]:
        """Where its parts lie on a scale of 0 to 100 that holds all of them."""
        ends = {"mean": self.mean}
        ends |= dict(zip(("low", "high"), self.interval or (), strict=False))
        ends |= dict(zip(("reference_low", "reference_high"), self.reference or (), strict=False))
        least, most = min(ends.values()), max(ends.values())
        room = 0.15 * (most - least) or 1.0
        return {
            name: round(100 * (value - least + room) / (most - least + 2 * room), 2)
            for name, value in ends.items()
        }


def main_figures(results: Results) -> list[Figure]:
    """List the main figures that the run has."""
    overall = {(r["stage"], r["method"], r["metric"]): r for r in results.summary if is_overall(r)}
    atlases = [subject.id for subject in results.subjects if subject.role == "atlas"]
    methods = list(reversed(results.config.fusion.methods))
    single, fused = results.segmentation_stages
    dice = "Dice" if fused == "fuse" else "Dice of atlases"
    wanted = [
        *(((fused, method, "dice"), f"{dice}, {words(method)}") for method in methods),
        ((single, "single_atlas", "dice"), f"{dice}, single atlases"),
        (("register", "warped", "ncc"), "Correlation with the template"),
        (("register", "warped", FOLDING), "Folded voxels"),
        (("template", "template", "gradient_energy_ratio"), "Sharpness, template over affine mean"),
    ]
    figures = []
    for (stage, method, metric), name in wanted:
        row = overall.get((stage, method, metric))
        if row is None:
            continue
        source, text = SOURCES.get(stage, ("", ""))
        values = results.values(source, method, metric) if source else {}
        reference = _range(np.array([values[name] for name in atlases if name in values]))
        low, high = number(row.get("ci95_low", "n/a")), number(row.get("ci95_high", "n/a"))
        figures.append(
            Figure(
                name,
                "" if row["unit"] == "1" else row["unit"],
                float(row["mean"]),
                None if math.isnan(low) else (low, high),
                int(row["n"]),
                reference,
                text,
            )
        )
    return figures


def _range(values: Array) -> tuple[float, float] | None:
    """The middle 90 % of the atlases, if they are enough."""
    values = values[np.isfinite(values)]
    if len(values) < MIN_REFERENCE:
        return None
    low, high = np.percentile(values, RANGE)
    return float(low), float(high)
