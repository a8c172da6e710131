"""Records of subjects that failed, and the cohort without them."""

from __future__ import annotations

from pathlib import Path

import pytest

from atlasmith.io.failures import SUBJECT_STAGES, Failure, has_failed, read_failures, write_failure
from atlasmith.io.layout import Layout
from atlasmith.io.tables import Subject, read_cohort, write_cohort


def test_a_failure_is_read_as_it_was_written(tmp_path: Path) -> None:
    failure = Failure("01_ses-02", "fuse", "no label. Look at it.", {"row": "x", "files": {"a": [1, 2]}})
    assert read_failures(tmp_path / "failures") == {}
    write_failure(tmp_path / "failures", failure)
    assert read_failures(tmp_path / "failures") == {"01_ses-02": failure}


@pytest.mark.parametrize("failed_in", SUBJECT_STAGES)
def test_a_subject_has_the_results_of_the_stages_before_its_failure(failed_in: str) -> None:
    failures = {"01": Failure("01", failed_in, "")}
    left = [stage for stage in SUBJECT_STAGES if not has_failed(failures, "01", stage)]
    assert left == list(SUBJECT_STAGES[: SUBJECT_STAGES.index(failed_in)])
    assert not any(has_failed(failures, "02", stage) for stage in SUBJECT_STAGES)


def test_the_cohort_is_read_without_those_that_failed(tmp_path: Path) -> None:
    layout = Layout(tmp_path, "T", ("T1w",))
    subjects = [Subject(name, "atlas", tmp_path / f"{name}.nii") for name in ("01", "02", "03")]
    write_cohort(layout.cohort, subjects, [])
    write_failure(layout.failures, Failure("02", "register", ""))

    def ids(passed: str | None) -> list[str]:
        return [subject.id for subject in read_cohort(layout.cohort, passed)]

    assert ids(None) == ids("affine") == ["01", "02", "03"]
    assert ids("register") == ids("score") == ["01", "03"]
