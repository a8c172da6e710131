"""Go on with the other subjects when one fails in a stage."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from atlasmith import __version__
from atlasmith.config import Config
from atlasmith.core.errors import AtlasmithError, is_machine_fault, system_fault
from atlasmith.io.failures import (
    SUBJECT_STAGES,
    Failure,
    failure_file,
    has_failed,
    read_failures,
    write_failure,
)
from atlasmith.io.tables import Subject, participant_of

# Sections of the config, by whose change a failed subject is tried again. Those of the stages before can't
# change within an output folder.
SECTIONS = {
    "preprocess": ("preprocess",),
    "affine": ("affine",),
    "register": ("template", "register"),
    "propagate": ("register", "fusion"),
    "fuse": ("fusion",),
    "score": ("score",),
}
assert tuple(SECTIONS) == SUBJECT_STAGES


class Attempts:
    """Attempts to take subjects through a stage. One that fails is recorded, and the others follow.

    A fault of the machine, such as a full disk, is nothing of one subject's, and ends them all.

    Args:
        config: The run's config.
        stage: Of `SUBJECT_STAGES`.
        subjects: The checked cohort, by id.
        rows: What the table of participants has of each subject, by id.
    """

    def __init__(
        self, config: Config, stage: str, subjects: Mapping[str, Subject], rows: Mapping[str, str]
    ) -> None:
        self.config, self.stage, self.subjects, self.rows = config, stage, subjects, rows
        self.failed: list[str] = []

    @contextmanager
    def __call__(self, subject_id: str) -> Iterator[None]:
        """Attempt what the block does for a subject."""
        try:
            yield
        except Exception as error:
            if is_machine_fault(error):
                raise
            message = str(error) if isinstance(error, AtlasmithError) else system_fault(error)
            if message is None:
                traceback.print_exc()
                message = f"unexpected {type(error).__name__}: {error}. Report it, with the log of the stage."
            subject, row = self.subjects[subject_id], self.rows.get(subject_id, "")
            inputs = failure_inputs(self.config, self.stage, row, subject.files)
            write_failure(self.config.layout.failures, Failure(subject_id, self.stage, message, inputs))
            print(f"sub-{subject_id} failed: {message}", file=sys.stderr, flush=True)
            self.failed.append(subject_id)

    def raise_failures(self) -> None:
        """Raise `AtlasmithError` where subjects have failed, so that the workflow knows."""
        if self.failed:
            names = ", ".join(f"sub-{subject}" for subject in self.failed)
            raise AtlasmithError(
                f"{names} failed. Start again to go on without: see {self.config.layout.failures}."
            )


def failure_inputs(config: Config, stage: str, row: str, files: Iterable[Path]) -> dict[str, Any]:
    """Describe what a subject's result in a stage depends on.

    Args:
        config: The run's config.
        stage: Of `SUBJECT_STAGES`.
        row: What the table of participants has of the subject.
        files: Its image, labels and masks.

    Returns:
        A JSON object, which changes when something of it does.
    """
    return {
        "version": __version__,
        "config": config.digest(*SECTIONS[stage]),
        "row": row,
        "files": {str(path): _state_of(path) for path in files},
    }


def current_failures(config: Config, rows: Mapping[str, str]) -> dict[str, Failure]:
    """Read the failures of a run whose subjects haven't changed since.

    Args:
        config: The run's config.
        rows: What the table of participants has of each subject, by id.

    Returns:
        Failures by id; the other subjects are to be tried, perhaps again.
    """
    return {
        subject: failure
        for subject, failure in read_failures(config.layout.failures).items()
        if subject in rows
        and failure.inputs
        == failure_inputs(config, failure.stage, rows[subject], map(Path, failure.inputs.get("files", {})))
    }


def check_remaining(config: Config, participants: Iterable[Any], failures: Mapping[str, Failure]) -> None:
    """Check that failures leave enough subjects to go on with.

    Args:
        config: The run's config.
        participants: With `id`, `role` and `in_template`, as the table of participants has them.
        failures: See `current_failures`.

    Raises:
        AtlasmithError: Where there are too few, with the failures.
    """
    participants = list(participants)
    for stage, what, chosen, least in (
        ("affine", "subjects for the template", [p.id for p in participants if p.in_template], 2),
        (
            "propagate",
            "atlases",
            [p.id for p in participants if p.role == "atlas"],
            2 if config.fusion.networks else 1,
        ),
        ("fuse", "targets", [p.id for p in participants if p.role == "target"], 1),
    ):
        failed = [failures[name] for name in chosen if has_failed(failures, name, stage)]
        count = len({*map(participant_of, chosen)})
        left = len({participant_of(name) for name in chosen if not has_failed(failures, name, stage)})
        if failed and left < least:
            found = "\n".join(f"  - sub-{f.subject}, {f.stage}: {f.message}" for f in failed)
            raise AtlasmithError(
                f"too few {what} are left: {left} of {count}, and {least} or more are needed. Correct or "
                f"replace those that failed, or try them again by `atlasmith run --retry-failed`:\n{found}"
            )


def forget_failures(config: Config, but: Iterable[str] = ()) -> None:
    """Remove the records of failures, so that the subjects are tried again.

    Args:
        config: The run's config.
        but: Ids of subjects whose records stay.
    """
    folder = config.layout.failures
    for subject in set(read_failures(folder)) - set(but):
        failure_file(folder, subject).unlink()


def row_text(participant: Iterable[object]) -> str:
    """Give the row of a subject in the table of participants as text, by which a change is noticed."""
    return " ".join(map(str, participant))


def _state_of(path: Path) -> list[int] | None:
    """Size and time of a file; None where it is missing."""
    try:
        status = path.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]
