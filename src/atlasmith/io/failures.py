"""Subjects that failed in a stage, which the rest of the run goes on without."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from atlasmith.io.files import read_json, write_json

# The stages that run for each subject, in their order.
SUBJECT_STAGES = ("preprocess", "affine", "register", "propagate", "fuse", "score")


@dataclass(frozen=True)
class Failure:
    """A subject that failed in a stage.

    Attributes:
        subject: Its id, without `sub-`.
        stage: The stage, of `SUBJECT_STAGES`.
        message: What was found, and the remedy.
        inputs: What the result depends on; the subject is tried again when something of it changes.
    """

    subject: str
    stage: str
    message: str
    inputs: dict[str, Any] = field(default_factory=dict)


def write_failure(folder: Path, failure: Failure) -> None:
    """Record a failure.

    Args:
        folder: `Layout.failures`.
        failure: What failed.
    """
    write_json(failure_file(folder, failure.subject), asdict(failure))


def read_failures(folder: Path) -> dict[str, Failure]:
    """Read the recorded failures.

    Args:
        folder: `Layout.failures`, which need not exist.

    Returns:
        A failure for each subject that has one, by id.
    """
    failures = [Failure(**read_json(path)) for path in sorted(folder.glob("sub-*.json"))]
    return {failure.subject: failure for failure in failures}


def failure_file(folder: Path, subject: str) -> Path:
    """Return the file that records a subject's failure; without it, the subject is tried again."""
    return folder / f"sub-{subject}.json"


def has_failed(failures: Mapping[str, Failure], subject: str, stage: str) -> bool:
    """Tell whether a subject has no results of a stage, since it failed there or in an earlier one.

    Args:
        failures: See `read_failures`.
        subject: Id without `sub-`.
        stage: Of `SUBJECT_STAGES`.

    Returns:
        True where it failed.

    Example:
        >>> failures = {"01": Failure("01", "register", "no label lands in its field of view")}
        >>> has_failed(failures, "01", "fuse"), has_failed(failures, "01", "affine")
        (True, False)
    """
    failure = failures.get(subject)
    order = SUBJECT_STAGES.index
    return failure is not None and order(failure.stage) <= order(stage)
