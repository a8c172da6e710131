"""The results of a run that several sections of the report show."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from atlasmith.config import Config
from atlasmith.core.grid import Grid
from atlasmith.io.files import read_json
from atlasmith.io.images import Image, read_image
from atlasmith.io.layout import Layout
from atlasmith.io.tables import ALL, MEAN, MISSING, Subject, read_tsv, scan_id
from atlasmith.report.pictures import Color, lightened, palette

FOLDING = "nonpositive_jacobian_percent"
HEX_COLOR = re.compile(r"#[0-9a-fA-F]{6}")  # as in the column `color` of a BIDS dseg.tsv


def table_at(path: Path) -> list[dict[str, str]]:
    """Read a table; no rows where there is no file."""
    return read_tsv(path) if path.exists() else []


def json_at(path: Path) -> dict[str, Any]:
    """Read a JSON object; empty where there is no file."""
    return read_json(path) if path.exists() else {}


def image_at(path: Path) -> Image | None:
    """Read an image; None where there is no file."""
    return read_image(path) if path.exists() else None


def number(text: str) -> float:
    """Parse a number of a table; NaN where it is missing."""
    return float("nan") if text == MISSING else float(text)


def is_overall(row: Mapping[str, str]) -> bool:
    """Return whether a score is of all labels together, or of no label, and defined."""
    return row["label"] in (MISSING, MEAN, ALL) and row.get("value", row.get("mean")) != MISSING


@dataclass(frozen=True)
class Results:
    """The files of an output folder, read when a section first needs them.

    Args:
        config: The run's config.
        subjects: The checked cohort.
    """

    config: Config
    subjects: list[Subject]

    @property
    def layout(self) -> Layout:
        """Names of the run's files."""
        return self.config.layout

    @property
    def last_method(self) -> str:
        """The last fusion method of the config, which the report treats as the main one."""
        return self.config.fusion.methods[-1]

    @cached_property
    def by_id(self) -> dict[str, Subject]:
        """The subjects by their ids."""
        return {subject.id: subject for subject in self.subjects}

    @cached_property
    def grid(self) -> Grid:
        """The template's grid."""
        return Grid.from_dict(read_json(self.layout.grid))

    @cached_property
    def summary(self) -> list[dict[str, str]]:
        """Rows of the summary of scores."""
        return table_at(self.layout.summary)

    @cached_property
    def scores(self) -> list[dict[str, str]]:
        """Rows of the subjects' scores."""
        return table_at(self.layout.scores)

    @cached_property
    def quality(self) -> list[dict[str, str]]:
        """Rows of the atlases' segmentations, each by all others, against their manual labels."""
        return table_at(self.layout.quality_table)

    @cached_property
    def label_table(self) -> list[dict[str, str]]:
        """Rows of the table of labels, without background."""
        return [row for row in table_at(self.layout.labels) if int(row["index"]) != 0]

    @cached_property
    def label_names(self) -> dict[int, str]:
        """Names of the labels, without background."""
        return {int(row["index"]): row["name"] for row in self.label_table}

    @cached_property
    def colors(self) -> dict[int, Color]:
        """Colors of the labels: those of their table where it has any, light enough for an image."""
        given = {
            int(row["index"]): row["color"]
            for row in self.label_table
            if HEX_COLOR.fullmatch(row.get("color", ""))
        }
        return palette(list(self.label_names)) | {
            label: lightened((int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)))
            for label, text in given.items()
        }

    @cached_property
    def sidecars(self) -> dict[str, dict[str, Any]]:
        """Of each segmented subject, the sidecar of its segmentation by the last method."""
        found = {
            s.id: json_at(self.layout.segmentation_sidecar(s.id, self.last_method)) for s in self.subjects
        }
        return {name: sidecar for name, sidecar in found.items() if sidecar}

    @cached_property
    def volumes(self) -> dict[str, dict[int, dict[str, str]]]:
        """Of each segmented subject, the rows of its volumes by the last method, by label."""
        found = {s.id: table_at(self.layout.volumes(s.id, self.last_method)) for s in self.subjects}
        return {name: {int(row["index"]): row for row in rows} for name, rows in found.items() if rows}

    def values(self, stage: str, method: str, metric: str) -> dict[str, float]:
        """Select a score of each subject that has it; the mean over labels, where labels are scored."""
        wanted = (stage, method, metric)
        return {
            scan_id(row): float(row["value"])
            for row in self.scores
            if (row["stage"], row["method"], row["metric"]) == wanted and is_overall(row)
        }

    def dice(self) -> dict[str, float]:
        """Select each target's mean Dice by the last fusion method."""
        return self.values("fuse", self.last_method, "dice")

    def similarity(self) -> dict[str, float]:
        """Select each subject's correlation with the template after the warp."""
        return self.values("register", "warped", "ncc")

    def predicted_dice(self) -> dict[str, float]:
        """Select each subject's predicted Dice by the last fusion method."""
        found = {name: sidecar.get("PredictedDice") for name, sidecar in self.sidecars.items()}
        return {name: float(value) for name, value in found.items() if value is not None}

    @cached_property
    def segmentation_stages(self) -> tuple[str, str]:
        """The stages of scores that tell how well single atlases, and fused ones, segment: of the targets, or
        else of the atlases, each segmented by all others."""
        scored = {row["stage"] for row in self.summary if row["metric"] == "dice"}
        of_atlases = "leave_one_out" in scored and "fuse" not in scored
        return ("leave_one_out", "leave_one_out") if of_atlases else ("propagate", "fuse")
