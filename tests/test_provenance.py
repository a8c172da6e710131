"""What a training depends on."""

from dataclasses import replace
from pathlib import Path

from atlasmith.io.tables import Subject
from atlasmith.workflow.provenance import checksums, subjects_digest


def test_the_digest_depends_on_subjects_covariates_and_files(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a.nii", "b.nii", "labels.nii")]
    for file in files:
        file.write_text(file.name)
    subjects = [
        Subject("a", "atlas", files[0], files[2], {"age": 60.0}),
        Subject("b", "target", files[1], None, {"age": None}),
    ]
    inputs = tmp_path / "inputs.sha256"

    def digest(*subjects: Subject) -> str:
        inputs.write_text(checksums(files))
        return subjects_digest(inputs, subjects)

    original = digest(*subjects)
    assert original == digest(*subjects)
    others = {digest(subjects[0]), digest(replace(subjects[0], covariates={"age": 61.0}), subjects[1])}
    for file in files:
        file.write_text("another")
        others.add(digest(*subjects))
    assert original not in others and len(others) == 5
