"""The table of subjects, and which of them have a page of their own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from atlasmith.core.ranks import choose_evenly
from atlasmith.report.results import FOLDING, Results
from atlasmith.report.review import FAILED, Finding
from atlasmith.report.text import number_text

ROLES = ("target", "atlas", "train")  # the order in which places among the pages are given


@dataclass(frozen=True)
class Column:
    """A column of the table of subjects.

    Args:
        title: Its header.
        values: By subject; numbers, or texts.
    """

    title: str
    values: Mapping[str, float | str]

    @property
    def is_text(self) -> bool:
        """Whether it holds texts."""
        return any(isinstance(value, str) for value in self.values.values())

    def text(self, subject: str) -> str:
        """The cell of a subject."""
        value = self.values.get(subject)
        return value if isinstance(value, str) else number_text(value)

    def sort_key(self, subject: str) -> str:
        """What a cell is sorted by; empty where it has no value."""
        value = self.values.get(subject)
        return "" if value is None else str(value)


def subject_columns(results: Results) -> list[Column]:
    """List the columns of the table that have a value for at least one subject."""
    covariates = dict.fromkeys(name for subject in results.subjects for name in subject.covariates)
    columns = [
        Column("Role", {subject.id: subject.role for subject in results.subjects}),
        *(
            Column(
                name.replace("_", " ").capitalize(),
                {s.id: v for s in results.subjects if (v := s.covariates.get(name)) is not None},
            )
            for name in covariates
        ),
        Column("Correlation", results.similarity()),
        Column("Folded, %", results.values("register", "warped", FOLDING)),
        Column("Predicted Dice", results.predicted_dice()),
        Column("Dice", results.dice()),
        Column("Dice, by all others", results.values("leave_one_out", results.last_method, "dice")),
    ]
    return [column for column in columns if column.values]


def subject_status(results: Results, findings: Iterable[Finding]) -> dict[str, str]:
    """Say of each subject whether it failed or needs review; empty where neither."""
    status = dict.fromkeys(results.by_id, "")
    for finding in findings:
        if status.get(finding.subject) != "failed":
            status[finding.subject] = "failed" if finding.kind == FAILED else "review"
    return status


def choose_pages(results: Results, findings: Sequence[Finding]) -> list[str]:
    """Choose the subjects that have a page: those that need review, then others, evenly by rank.

    Targets come before atlases, and these before subjects that only train. Within a role, the ranks are those
    of the Dice, else of the predicted Dice, else of the correlation with the template.

    Args:
        results: Of the run.
        findings: What needs review.

    Returns:
        Ids, `report.subjects` at most, in the cohort's order.
    """
    shown = [
        s.id for s in results.subjects if results.layout.preprocessed(s.id, _channel(results, s.id)).exists()
    ]
    chosen = [name for name in dict.fromkeys(f.subject for f in findings) if name in shown]
    count = results.config.report.subjects
    chosen = chosen[:count]
    scores: dict[str, Any] = {**results.similarity(), **results.predicted_dice(), **results.dice()}
    for role in ROLES:
        others = [n for n in shown if n not in chosen and results.by_id[n].role == role]
        ranked = sorted(others, key=lambda name: scores.get(name, 0.0))
        chosen += choose_evenly(ranked, count - len(chosen))
    return [name for name in shown if name in chosen]


def _channel(results: Results, subject: str) -> str | None:
    """The first channel that a subject has; None in a cohort of one channel."""
    return next(iter(results.by_id[subject].channels), None)
