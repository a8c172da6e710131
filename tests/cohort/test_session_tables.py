"""Scans of several sessions: found, with roles and covariates of their own, a participant on one side."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tiny import Tiny, only

from atlasmith.cohort import check_cohort, checked_participants, read_participants, write_checked_cohort
from atlasmith.io.tables import Subject, atlases_for, read_cohort, read_tsv

MAJORITY = {"methods": ["majority"]}


def into_session(tiny: Tiny, name: str, *sessions: str) -> None:
    """Give a subject's image and labels to each of some sessions, instead of to none."""
    for path in (tiny.image(name), tiny.labels(name)):
        if path.exists():
            for session in sessions:
                copy = in_session(path, session)
                copy.parent.mkdir(parents=True)
                shutil.copyfile(path, copy)
            path.unlink()
            path.parent.rmdir()


def in_session(path: Path, session: str) -> Path:
    """Where the file of a subject without sessions would be in one."""
    name = path.parents[1].name
    return path.parents[1] / session / "anat" / path.name.replace(name, f"{name}_{session}")


def write_sessions(tiny: Tiny, name: str, text: str) -> Path:
    path = tiny.bids / name / f"{name}_sessions.tsv"
    path.write_text(text.replace(" ", "\t"))
    return path


@pytest.fixture
def longitudinal(tiny: Tiny) -> Tiny:
    """The cohort with two sessions of the atlas sub-01 and of the target sub-03."""
    for name in ("sub-01", "sub-03"):
        into_session(tiny, name, "ses-1", "ses-2")
    return tiny


def test_each_session_is_a_scan(longitudinal: Tiny) -> None:
    config = longitudinal.config()
    write_checked_cohort(config)
    subjects = read_cohort(config.layout.cohort)
    assert [(s.id, s.participant, s.role) for s in subjects] == [
        ("01_ses-1", "01", "atlas"),
        ("01_ses-2", "01", "atlas"),
        ("02", "02", "atlas"),
        ("03_ses-1", "03", "target"),
        ("03_ses-2", "03", "target"),
        ("04", "04", "train"),
    ]
    assert subjects[1].image == in_session(longitudinal.image("sub-01"), "ses-2")
    assert subjects[4].labels == in_session(longitudinal.labels("sub-03"), "ses-2")
    assert [row["session_id"] for row in read_tsv(config.layout.cohort)][:3] == ["ses-1", "ses-2", "n/a"]
    assert [p.id for p in read_participants(config)] == ["02", *(s.id for s in subjects if s.id != "02")]
    assert sorted(checked_participants(config).values()) == sorted(read_participants(config))


def test_one_subject_in_a_session(tiny: Tiny) -> None:
    into_session(tiny, "sub-03", "ses-01")
    assert check_cohort(tiny.config()).subjects[2].image == in_session(tiny.image("sub-03"), "ses-01")


def test_a_session_without_images_is_no_scan(longitudinal: Tiny) -> None:
    (longitudinal.bids / "sub-02" / "ses-1" / "func").mkdir(parents=True)
    (longitudinal.bids / "sub-04" / "ses-1" / "anat").mkdir(parents=True)
    assert [s.id for s in check_cohort(longitudinal.config()).subjects][2::3] == ["02", "04"]


def test_entities_choose_sessions(longitudinal: Tiny) -> None:
    for name in ("sub-02", "sub-04"):
        into_session(longitudinal, name, "ses-1")
    subjects = check_cohort(longitudinal.config(cohort={"entities": {"ses": 1}})).subjects
    assert [s.id for s in subjects] == [f"0{n}_ses-1" for n in (1, 2, 3, 4)]


class TestTablesOfSessions:
    def test_their_values_replace_those_of_the_participant(self, longitudinal: Tiny) -> None:
        write_sessions(longitudinal, "sub-01", "session_id age\nses-1 70\nses-2 74.5\n")
        write_sessions(
            longitudinal,
            "sub-03",
            "session_id role age acq_time\nses-2 train n/a 12:00\nses-1 n/a 55 13:00\n",
        )
        longitudinal.rows[2]["age"] = "50"
        longitudinal.write_table()
        subjects = {s.id: s for s in check_cohort(longitudinal.config()).subjects}
        assert [subjects[f"01_ses-{n}"].covariates for n in (1, 2)] == [
            {"age": 70.0, "sex": "M"},
            {"age": 74.5, "sex": "M"},
        ]
        assert [subjects[f"03_ses-{n}"].role for n in (1, 2)] == ["target", "train"]
        assert [subjects[f"03_ses-{n}"].covariates["age"] for n in (1, 2)] == [55.0, None]

    def test_columns_may_be_there_alone(self, longitudinal: Tiny) -> None:
        for name in ("sub-01", "sub-03"):
            write_sessions(longitudinal, name, "session_id weight build\nses-1 60 yes\nses-2 61 no\n")
        for row in longitudinal.rows:
            row["build"] = "yes"
        longitudinal.write_table()
        config = longitudinal.config(cohort={"covariates": ["age", "weight"], "template_subjects": "build"})
        subjects = {s.id: s for s in check_cohort(config).subjects}
        assert [subjects[name].covariates["weight"] for name in ("01_ses-1", "01_ses-2", "02")] == [
            60,
            61,
            None,
        ]
        assert [name for name, s in subjects.items() if not s.in_template] == ["01_ses-2", "03_ses-2"]

    def test_a_bad_value_names_the_scan(self, longitudinal: Tiny) -> None:
        write_sessions(longitudinal, "sub-01", "session_id age\nses-1 70\nses-2 7O\n")
        only(longitudinal.problems(), "sub-*_sessions.tsv: column 'age'", "'7O' (sub-01_ses-2)")

    @pytest.mark.parametrize(
        ("text", "parts"),
        [
            ("session age\nses-1 70\nses-2 71\n", ["no column 'session_id'", "Did you mean 'session'"]),
            ("session_id age\nses-1 70\nses-02 71\n", ["no row for ses-2", "Did you mean 'ses-02'"]),
            ("session_id age\nses-1 70\nses-1 71\nses-2 72\n", ["ses-1 has two rows"]),
            ("session_id role\nses-1 atlas\nses-2 atlas\nses-3 atlas\n", ["sub-01_ses-3", "no image"]),
            ("session_id role\nses-1 atlas\nses-2 atlass\n", ["sub-01_ses-2", "Did you mean 'atlas'"]),
        ],
    )
    def test_bad_tables(self, longitudinal: Tiny, text: str, parts: list[str]) -> None:
        write_sessions(longitudinal, "sub-01", text)
        only(longitudinal.problems(), *parts)

    def test_a_row_for_each_session_in_the_table_of_participants(self, longitudinal: Tiny) -> None:
        longitudinal.rows.append(dict(longitudinal.rows[1]))
        for row in longitudinal.rows:
            row["session_id"] = "ses-1"
        longitudinal.write_table()
        only(longitudinal.problems(), "row 5", "sub-01 has a row already", "sub-01/sub-01_sessions.tsv")


class TestFilesWithoutSession:
    def test_labels_belong_to_the_only_scan(self, tiny: Tiny) -> None:
        old = tiny.labels("sub-01")
        kept = old.read_bytes()
        into_session(tiny, "sub-01", "ses-1")
        shutil.rmtree(old.parents[1])
        old.parent.mkdir(parents=True)
        old.write_bytes(kept)
        assert check_cohort(tiny.config()).subjects[0].labels == old

    @pytest.mark.parametrize("name", ["sub-01", "sub-03"])  # an atlas; a target, which needs none
    def test_labels_of_one_of_several_scans(self, longitudinal: Tiny, name: str) -> None:
        path = longitudinal.labels(name)
        path.parent.mkdir(parents=True)
        in_session(path, "ses-1").rename(path)
        only(longitudinal.problems(), path, f"of which scan is this: {name}_ses-1, {name}_ses-2", "Name it")

    def test_labels_in_a_session_and_the_image_in_none(self, tiny: Tiny) -> None:
        path = tiny.labels("sub-03")
        new = in_session(path, "ses-1")
        new.parent.mkdir(parents=True)
        path.rename(new)
        only(tiny.problems(), new, "of which scan is this: sub-03?", path)

    def test_an_image_beside_those_of_sessions(self, longitudinal: Tiny) -> None:
        path = longitudinal.image("sub-03")
        path.parent.mkdir(parents=True)
        shutil.copyfile(in_session(path, "ses-1"), path)
        only(longitudinal.problems(), path.parent, "belongs to no session", "sub-03_ses-1")


class TestHoldOut:
    def test_all_scans_of_a_participant(self, longitudinal: Tiny) -> None:
        config = longitudinal.config(cohort={"hold_out": ["sub-01"]}, fusion=MAJORITY)
        subjects = check_cohort(config).subjects
        assert [s.role for s in subjects if s.participant == "01"] == ["target", "target"]

    def test_some_scans_of_a_participant(self, longitudinal: Tiny) -> None:
        problems = longitudinal.problems(cohort={"hold_out": ["sub-01_ses-2"]}, fusion=MAJORITY)
        only(problems, "cohort.hold_out", "sub-01_ses-1 remains an atlas", "Write sub-01")
        write_sessions(longitudinal, "sub-01", "session_id role\nses-1 train\nses-2 atlas\n")
        config = longitudinal.config(cohort={"hold_out": ["sub-01_ses-2"]}, fusion=MAJORITY)
        assert [s.role for s in check_cohort(config).subjects][:2] == ["train", "target"]


class TestAtlasesOfOtherParticipants:
    def test_nothing_is_segmented_by_its_own_participant(self) -> None:
        ids = {"01_ses-1": "atlas", "01_ses-2": "target", "02": "atlas", "03": "target", "1": "atlas"}
        subjects = {name: Subject(name, role, Path("image.nii")) for name, role in ids.items()}
        found = {s.id: [a.id for a in atlases_for(s, subjects.values())] for s in subjects.values()}
        assert found == {
            "01_ses-1": ["02", "1"],
            "01_ses-2": ["02", "1"],
            "02": ["01_ses-1", "1"],
            "03": ["01_ses-1", "02", "1"],
            "1": ["01_ses-1", "02"],
        }

    def test_scans_of_one_participant_are_one_atlas(self, longitudinal: Tiny) -> None:
        longitudinal.rows[0]["role"] = "train"
        longitudinal.write_table()
        only(longitudinal.problems(), "1 subject has the role 'atlas'", "autocontext")
        check_cohort(longitudinal.config(fusion=MAJORITY))

    def test_a_target_whose_only_atlases_are_its_own(self, longitudinal: Tiny) -> None:
        longitudinal.rows[0]["role"] = "train"
        longitudinal.write_table()
        write_sessions(longitudinal, "sub-01", "session_id role\nses-1 atlas\nses-2 target\n")
        only(longitudinal.problems(fusion=MAJORITY), "only atlases for sub-01_ses-2", "same subject")
        write_sessions(longitudinal, "sub-01", "session_id role\nses-1 atlas\nses-2 train\n")
        longitudinal.rows[1]["role"] = "target"
        longitudinal.write_table()
        check_cohort(longitudinal.config(fusion=MAJORITY))
        segmented = {**MAJORITY, "train_subjects": True}
        only(longitudinal.problems(fusion=segmented), "only atlases for sub-01_ses-2", "same subject")
