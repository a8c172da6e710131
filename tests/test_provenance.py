"""Who a training is of."""

from dataclasses import replace
from pathlib import Path

from atlasmith.io.tables import Subject
from atlasmith.workflow.provenance import checksums, fingerprint


def test_a_fingerprint_is_of_people_covariates_and_files(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a.nii", "b.nii", "labels.nii")]
    for file in files:
        file.write_text(file.name)
    people = [
        Subject("a", "atlas", files[0], files[2], {"age": 60.0}),
        Subject("b", "target", files[1], None, {"age": None}),
    ]
    inputs = tmp_path / "inputs.sha256"

    def now(*subjects: Subject) -> str:
        inputs.write_text(checksums(files))
        return fingerprint(inputs, subjects)

    known = now(*people)
    assert known == now(*people)
    others = {now(people[0]), now(replace(people[0], covariates={"age": 61.0}), people[1])}
    for file in files:
        file.write_text("another")
        others.add(now(*people))
    assert known not in others and len(others) == 5
