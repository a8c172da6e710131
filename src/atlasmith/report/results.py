"""The results of a run that several sections of the report show."""

from __future__ import annotations

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
from atlasmith.io.tables import ALL, MEAN, MISSING, Subject, read_tsv

FOLDING = "nonpositive_jacobian_percent"


def table_at(path: Path) -> list[dict[str, str]]:
    """Read a table; no rows where there is no file."""
    return read_tsv(path) if path.exists() else []


def json_at(path: Path) -> dict[str, Any]:
    """Read a JSON object; empty where there is no file."""
    return read_json(path) if path.exists() else {}


def image_at(path: Path) -> Image | None:
    """Read an image; None where there is no file."""
    return read_image(path) if path.exists() else None


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
    def label_names(self) -> dict[int, str]:
        """Names of the labels, without background."""
        return {int(r["index"]): r["name"] for r in table_at(self.layout.labels) if int(r["index"]) != 0}

    def values(self, stage: str, method: str, metric: str) -> dict[str, float]:
        """Select a score of each subject that has it; the mean over labels, where labels are scored."""
        wanted = (stage, method, metric)
        return {
            row["subject"]: float(row["value"])
            for row in self.scores
            if (row["stage"], row["method"], row["metric"]) == wanted and is_overall(row)
        }

    def dice(self) -> dict[str, float]:
        """Select each target's mean Dice by the last fusion method."""
        return self.values("fuse", self.last_method, "dice")

    def similarity(self) -> dict[str, float]:
        """Select each subject's correlation with the template after the warp."""
        return self.values("register", "warped", "ncc")
