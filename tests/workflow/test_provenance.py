"""Identification of what a training depends on."""

from dataclasses import replace
from pathlib import Path

import torch

from atlasmith import __version__
from atlasmith.config import parse_config
from atlasmith.io.tables import Subject
from atlasmith.workflow.provenance import checksums, software_versions, subjects_digest, training_digest


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


def test_the_digest_of_a_training_depends_on_its_sections_alone(tmp_path: Path) -> None:
    subjects = [Subject("a", "atlas", tmp_path / "a.nii")]

    def digest(**sections: object) -> str:
        values = {"output": str(tmp_path), "cohort": {"bids": "d"}, **sections}
        return training_digest(parse_config(values), ("cohort", "template"), subjects)

    assert digest() == digest(score={"bootstrap": 9})
    assert digest().endswith(__version__)
    other_images = {"bids": "d", "suffix": "T2w"}
    assert len({digest(), digest(seed=1), digest(template={"steps": 9}), digest(cohort=other_images)}) == 4
    assert digest() == digest(cohort={"bids": "e"})  # the checksums of the files count, not where they lie


def test_versions_are_those_of_the_installed_packages() -> None:
    versions = software_versions()
    assert versions["atlasmith"] == __version__ and torch.__version__.startswith(versions["torch"])
