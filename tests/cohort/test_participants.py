"""Every kind of bad table of participants is reported."""

from __future__ import annotations

import numpy as np
import pytest
from tiny import Tiny, only

from atlasmith.cohort import (
    check_cohort,
    read_participants,
    write_checked_cohort,
)
from atlasmith.core.errors import InputError
from atlasmith.core.grid import Array, Grid
from atlasmith.io.files import read_json
from atlasmith.io.tables import read_cohort


def test_no_table(tiny: Tiny) -> None:
    tiny.table.unlink()
    only(tiny.problems(), tiny.table, "no such file", "cohort.bids")


def test_an_empty_table(tiny: Tiny) -> None:
    tiny.table.write_text("participant_id\trole\n")
    only(tiny.problems(), tiny.table, "no rows")


def test_a_table_in_another_encoding(tiny: Tiny) -> None:
    tiny.table.write_bytes("participant_id\trole\nsub-01\tGrüße\n".encode("latin-1"))
    only(tiny.problems(), tiny.table, "UTF-8")


@pytest.mark.parametrize(
    ("column", "near"), [("participant_id", "participants_id"), ("role", "roles"), ("sex", "sxe")]
)
def test_a_missing_column(tiny: Tiny, column: str, near: str) -> None:
    tiny.table.write_text(tiny.table.read_text().replace(column, near, 1))
    only(tiny.problems(), tiny.table, f"no column '{column}'", f"Did you mean '{near}'?")


@pytest.mark.parametrize(
    "name", ["01", "sub-", "sub-0_1", "sub-../../etc", "sub-1;rm", "sub-1 ", "sub-ä", ""]
)
def test_a_malformed_id(tiny: Tiny, name: str) -> None:
    tiny.rows[3]["participant_id"] = name
    tiny.write_table()
    only(tiny.problems(), tiny.table, "row 4", repr(name), "letters and digits")


def test_a_duplicate_id(tiny: Tiny) -> None:
    tiny.rows.append(dict(tiny.rows[0]))
    tiny.write_table()
    only(tiny.problems(), tiny.table, "row 5", "sub-02")


def test_an_unknown_role(tiny: Tiny) -> None:
    tiny.rows[2]["role"] = "targt"
    tiny.write_table()
    only(tiny.problems(), tiny.table, "sub-03", "'targt'", "Did you mean 'target'?")


def test_no_target(tiny: Tiny) -> None:
    tiny.rows[2]["role"] = "train"
    tiny.write_table()
    only(tiny.problems(), tiny.table, "no subject has the role 'target'")


def test_no_atlas(tiny: Tiny) -> None:
    for row in tiny.rows[:2]:
        row["role"] = "train"
    tiny.write_table()
    only(tiny.problems(), tiny.table, "no subject has the role 'atlas'", "autocontext")


def test_trained_fusion_needs_two_atlases(tiny: Tiny) -> None:
    tiny.rows[0]["role"] = "train"
    tiny.write_table()
    only(tiny.problems(), tiny.table, "1 subject has the role 'atlas'", "autocontext")
    problems = tiny.problems(fusion={"methods": ["majority", "votenet"]})
    only(problems, tiny.table, "1 subject has the role 'atlas'", "votenet")
    check_cohort(tiny.config(fusion={"methods": ["majority"]}))


def test_one_subject(tiny: Tiny) -> None:
    tiny.rows = tiny.rows[:1]
    tiny.write_table()
    assert any("only one subject" in problem for problem in tiny.problems(template={"condition_on": []}))


def test_a_held_out_atlas_is_a_target(tiny: Tiny) -> None:
    config = tiny.config(cohort={"hold_out": ["sub-02"]}, fusion={"methods": ["majority"]})
    write_checked_cohort(config)
    assert [(s.id, s.role) for s in read_cohort(config.layout.cohort)][:2] == [
        ("01", "atlas"),
        ("02", "target"),
    ]
    assert ("02", "target") in [participant[:2] for participant in read_participants(config)]


def test_only_an_atlas_can_be_held_out(tiny: Tiny) -> None:
    problems = tiny.problems(cohort={"hold_out": ["sub-20"]})
    only(problems, "cohort.hold_out", "'sub-20' is no atlas", "sub-02")


def test_reading_the_table_alone_finds_its_problems(tiny: Tiny) -> None:
    tiny.rows[2]["role"] = "targte"
    tiny.rows[3]["participant_id"] = "sub 4"
    tiny.write_table()
    with pytest.raises(InputError) as caught:
        read_participants(tiny.config())
    assert len(caught.value.problems) == 2


@pytest.mark.parametrize("value", ["old", "N/A", "6I"])
def test_a_covariate_that_is_no_number(tiny: Tiny, value: str) -> None:
    tiny.rows[1]["age"] = value
    tiny.write_table()
    only(tiny.problems(), tiny.table, "'age'", f"'{value}' (sub-01) is no number", "n/a")


@pytest.mark.parametrize("value", ["inf", "nan"])
def test_a_covariate_that_is_not_finite(tiny: Tiny, value: str) -> None:
    tiny.rows[1]["age"] = value
    tiny.write_table()
    only(tiny.problems(), tiny.table, "'age'", "sub-01", "finite")


def test_a_covariate_that_is_all_missing(tiny: Tiny) -> None:
    for row in tiny.rows:
        row["age"] = "n/a"
    tiny.write_table()
    only(tiny.problems(), tiny.table, "'age'", "every value is missing")


def test_a_constant_covariate_matters_to_a_conditional_template_alone(tiny: Tiny) -> None:
    for row in tiny.rows:
        row["age"] = "70"
    tiny.write_table()
    only(tiny.problems(), tiny.table, "'age'", "every value is 70", "condition_on")
    check_cohort(tiny.config(template={"condition_on": []}))


def test_a_covariate_with_a_reserved_name(tiny: Tiny) -> None:
    only(tiny.problems(cohort={"covariates": ["age", "role"]}), "'role'", "Rename")


@pytest.mark.parametrize(("name", "value"), [("age", "old"), ("sex", "X"), ("sex", 1)])
def test_evaluate_at_an_unknown_value(tiny: Tiny, name: str, value: str | int) -> None:
    template = {"condition_on": ["age", "sex"], "evaluate_at": {name: [value]}}
    only(tiny.problems(template=template), f"template.evaluate_at.{name}", str(value))


class TestTemplateSubjects:
    @pytest.fixture
    def some(self, tiny: Tiny) -> Tiny:
        """A cohort whose last two subjects, one of each sex, take no part in the template."""
        for row, value in zip(tiny.rows, ("yes", "yes", "no", "no"), strict=True):
            row["build"] = value
        tiny.write_table()
        return tiny

    def test_they_alone_decide_the_grid(self, some: Tiny) -> None:
        def grow(data: Array) -> Array:
            return np.pad(data, 20)

        some.change(some.image("sub-04"), grow)
        some.change(some.image("sub-04"), lambda data: data + np.arange(data.size).reshape(data.shape))
        config = some.config(cohort={"template_subjects": "build"})
        write_checked_cohort(config)
        assert Grid.from_dict(read_json(config.layout.grid)).shape == (16, 16, 16)
        assert [s.id for s in read_cohort(config.layout.cohort) if s.in_template] == ["01", "02"]
        assert [p.id for p in read_participants(config) if p.in_template] == ["02", "01"]

    @pytest.mark.parametrize(
        ("values", "parts"),
        [
            (["yes", "yes", "maybe", "no"], ["column 'build'", "'maybe' (sub-03)", "yes or no"]),
            (["yes", "no", "no", "no"], ["column 'build'", "1 subject has yes"]),
        ],
    )
    def test_the_column_has_yes_or_no(self, some: Tiny, values: list[str], parts: list[str]) -> None:
        for row, value in zip(some.rows, values, strict=True):
            row["build"] = value
        some.write_table()
        only(some.problems(cohort={"template_subjects": "build"}, template={"condition_on": []}), *parts)

    def test_they_have_every_category(self, some: Tiny) -> None:
        some.rows[1]["sex"] = "F"
        some.rows[1]["age"], some.rows[0]["age"] = "60", "70"
        some.rows[3]["sex"] = "X"
        some.rows[2]["sex"] = "n/a"
        some.write_table()
        problems = some.problems(
            cohort={"template_subjects": "build"}, template={"condition_on": ["age", "sex"]}
        )
        only(problems, "column 'sex'", "every value is F")
        some.rows[1]["sex"] = "M"
        some.write_table()
        problems = some.problems(
            cohort={"template_subjects": "build"}, template={"condition_on": ["age", "sex"]}
        )
        only(problems, "column 'sex'", "'X' (sub-04)", "'build'")

    def test_subpopulations_need_all_subjects(self, some: Tiny) -> None:
        problems = some.problems(cohort={"template_subjects": "build"}, template={"subpopulations": 2})
        only(problems, "template.subpopulations", "atlasmith segment")


def test_modes_are_fewer_than_subjects(tiny: Tiny) -> None:
    count = len(tiny.rows)
    only(tiny.problems(register={"modes": count}), "register.modes", f"{count} modes", f"{count} subjects")


@pytest.mark.parametrize("note", ['"claustrophobic', '"', 'a "coil"'])
def test_quotes_in_a_note_are_text(tiny: Tiny, note: str) -> None:
    for row in tiny.rows:
        row["notes"] = "fine"
    tiny.rows[1]["notes"] = note
    tiny.write_table()
    assert [subject.id for subject in check_cohort(tiny.config()).subjects] == ["01", "02", "03", "04"]


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("M\nsub-03", "M\textra\nsub-03", "row 2: it has 5 cells, and the header has 4"),
        ("\tM\nsub-03", "\nsub-03", "row 2: it has 3 cells, and the header has 4"),
        ("\tage\t", "\trole\t", "2 columns 'role'"),
    ],
)
def test_a_ragged_table(tiny: Tiny, old: str, new: str, found: str) -> None:
    text = tiny.table.read_text()
    assert old in text
    tiny.table.write_text(text.replace(old, new, 1))
    only(tiny.problems(), tiny.table, found)
