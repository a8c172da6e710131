"""The table of participants: ids, roles, template subjects, covariates."""

from __future__ import annotations

import csv
import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from atlasmith import __version__
from atlasmith.cohort.output import read_generators
from atlasmith.cohort.problems import Problems, abbreviate
from atlasmith.config import Config
from atlasmith.core.errors import InputError, did_you_mean
from atlasmith.io.tables import COLUMNS, format_value, parse_covariate, read_cohort, read_tsv

Row = dict[str, str]

ROLES = ("atlas", "target", "train")
IN_TEMPLATE = {"yes": True, "no": False}


class Participant(NamedTuple):
    """A subject as the tables have it.

    Attributes:
        id: Without `sub-`.
        role: atlas, target or train.
        in_template: Whether the subject takes part in building the template.
        covariates: The texts of the config's covariates, in their order.
    """

    id: str
    role: str
    in_template: bool
    covariates: tuple[str, ...]


def read_participants(config: Config) -> list[Participant]:
    """Read the subjects from participants.tsv alone.

    Args:
        config: The run's config.

    Returns:
        Subjects in the order of the table.

    Raises:
        InputError: With every problem of the table.
    """
    problems = Problems()
    rows = read_rows(config, problems)
    if problems:
        raise InputError(problems)
    return [
        Participant(
            name,
            row[config.cohort.role],
            is_in_template(config, row),
            tuple(format_value(parse_covariate(row[key])) for key in config.cohort.covariates),
        )
        for name, row in rows.items()
    ]


def checked_participants(config: Config) -> dict[str, Participant]:
    """Read the subjects as the cohort stage found them when it last ran.

    Args:
        config: The run's config.

    Returns:
        Subjects by id; none where this version of the cohort stage hasn't run yet.
    """
    layout = config.layout
    if not layout.cohort.exists() or read_generators(layout.description).get("atlasmith") != __version__:
        return {}
    return {
        subject.id: Participant(
            subject.id,
            subject.role,
            subject.in_template,
            tuple(format_value(subject.covariates.get(key)) for key in config.cohort.covariates),
        )
        for subject in read_cohort(layout.cohort)
    }


def is_in_template(config: Config, row: Row) -> bool:
    """Return whether the subject of a row takes part in building the template."""
    column = config.cohort.template_subjects
    return column is None or IN_TEMPLATE.get(row[column], True)


def read_rows(config: Config, problems: Problems) -> dict[str, Row]:
    """Read and check participants.tsv.

    Args:
        config: The run's config.
        problems: Where problems are added.

    Returns:
        Rows by id without `sub-`, in the table's order, with held-out atlases as targets; none where the
        table or one of its columns is missing.
    """
    table = config.cohort.bids / "participants.tsv"
    rows = _read_table(table, problems)
    if not rows or not _check_columns(config, table, list(rows[0]), problems):
        return {}
    by_id = _rows_by_id(table, rows, problems)
    _check_subpopulations(config, rows, problems)
    _check_template_subjects(config, table, rows, problems)
    _hold_out(config, table, by_id, problems)
    _check_roles(config, table, rows, problems)
    for name in config.cohort.covariates:
        if name in rows[0]:
            _check_covariate(config, name, table, rows, problems)
    return by_id


def _read_table(table: Path, problems: Problems) -> list[Row]:
    if not table.is_file():
        problems.add(table, "no such file", "cohort.bids must name a BIDS folder with a participants.tsv.")
        return []
    try:
        rows = [{key: value or "" for key, value in row.items()} for row in read_tsv(table)]
    except (UnicodeDecodeError, csv.Error) as error:
        problems.add(table, f"this is no table ({error})", "Save it as tab-separated text in UTF-8.")
        return []
    if not rows:
        problems.add(table, "the table has no rows", "Give each subject a row, columns divided by tabs.")
    return rows


def _check_columns(config: Config, table: Path, columns: Sequence[str], problems: Problems) -> bool:
    """Return whether there are the columns without which the rows can't be read."""
    cohort = config.cohort
    required = [
        "participant_id",
        cohort.role,
        *([cohort.template_subjects] if cohort.template_subjects else []),
    ]
    for name in (*required, *cohort.covariates):
        if name not in columns:
            problems.add(table, f"there is no column '{name}'", did_you_mean(name, columns))
    return set(required) <= set(columns)


def _rows_by_id(table: Path, rows: Sequence[Row], problems: Problems) -> dict[str, Row]:
    by_id: dict[str, Row] = {}
    for number, row in enumerate(rows, start=1):
        name, where = row["participant_id"], f"{table}: row {number}"
        if not re.fullmatch("sub-[A-Za-z0-9]+", name):
            remedy = "An id is `sub-` and then letters and digits alone."
            problems.add(where, f"the participant_id is {name!r}", remedy)
        elif name.removeprefix("sub-") in by_id:
            problems.add(where, f"{name} has a row already", "Keep one row per subject.")
        else:
            by_id[name.removeprefix("sub-")] = row
    return by_id


def _check_subpopulations(config: Config, rows: Sequence[Row], problems: Problems) -> None:
    count = config.template.subpopulations
    if count > 1 and len(rows) < 2 * count:
        found = f"{count} subpopulations of {len(rows)} subjects"
        problems.add("config: template.subpopulations", found, "Lower it: each needs 2 or more subjects.")


def _check_template_subjects(config: Config, table: Path, rows: Sequence[Row], problems: Problems) -> None:
    column = config.cohort.template_subjects
    if column is None:
        return
    where = f"{table}: column '{column}'"
    wrong = [f"'{row[column]}' ({row['participant_id']})" for row in rows if row[column] not in IN_TEMPLATE]
    count = sum(row[column] == "yes" for row in rows)
    if wrong:
        problems.add(where, f"found {abbreviate(wrong)}", "Write yes or no.")
    elif count < 2:
        problems.add(where, f"{count} rows say yes", "A template needs 2 or more.")
    elif config.template.subpopulations > 1 and count < len(rows):
        problems.add(
            "config: template.subpopulations",
            f"subjects with no in {where} belong to no subpopulation",
            "Give them to `atlasmith segment` instead, one by one, or set cohort.template_subjects to null.",
        )


def _hold_out(config: Config, table: Path, by_id: dict[str, Row], problems: Problems) -> None:
    """Make targets of the atlases that the config holds out, in place."""
    role = config.cohort.role
    atlases = [f"sub-{name}" for name, row in by_id.items() if row[role] == "atlas"]
    for name in config.cohort.hold_out:
        if name in atlases:
            by_id[name.removeprefix("sub-")][role] = "target"
        else:
            found = f"'{name}' is no atlas of {table}"
            problems.add("config: cohort.hold_out", found, did_you_mean(name, atlases))


def _check_roles(config: Config, table: Path, rows: Sequence[Row], problems: Problems) -> None:
    role = config.cohort.role
    counts = Counter(row[role] for row in rows)
    unknown = [value for value in counts if value not in ROLES]
    for value in unknown:
        names = [row["participant_id"] for row in rows if row[role] == value]
        problems.add(table, f"the role of {abbreviate(names)} is '{value}'", did_you_mean(value, ROLES))
    if not unknown:
        # Networks are trained on atlases propagated to one another.
        networks = config.fusion.networks
        least = 2 if networks else 1
        if counts["atlas"] < least:
            reason = f", since fusion.methods has {' and '.join(networks)}" if networks else ""
            problems.add(
                table,
                f"{counts['atlas'] or 'no'} subject has the role 'atlas'",
                f"Give that role to {least} or more subjects with manual labels{reason}.",
            )
        if not counts["target"]:
            remedy = "Give that role to the subjects to segment."
            problems.add(table, "no subject has the role 'target'", remedy)
    if len(rows) < 2:
        problems.add(table, "there is only one subject", "A template needs 2 or more.")


def _check_covariate(config: Config, name: str, table: Path, rows: Sequence[Row], problems: Problems) -> None:
    where = f"{table}: column '{name}'"
    remedy = "Write n/a where a value is missing, or remove the name from cohort.covariates."
    if name in COLUMNS:
        problems.add(where, "this name has another use here", "Rename the column.")
        return
    values = {row["participant_id"]: parse_covariate(row[name]) for row in rows}
    given = {key: value for key, value in values.items() if value is not None}
    texts = {key: value for key, value in given.items() if isinstance(value, str)}
    infinite = [key for key, value in given.items() if isinstance(value, float) and not math.isfinite(value)]
    if not given:
        problems.add(where, "every value is missing", remedy)
    elif texts and len(texts) < len(given):
        found = abbreviate([f"'{value}' ({key})" for key, value in texts.items()])
        problems.add(where, f"{found} is no number, while other rows hold numbers", remedy)
    elif infinite:
        problems.add(where, f"the value of {abbreviate(infinite)} is no finite number", remedy)
    else:
        template_ids = {row["participant_id"] for row in rows if is_in_template(config, row)}
        _check_template_covariate(config, name, where, given, template_ids, problems)


def _check_template_covariate(
    config: Config,
    name: str,
    where: str,
    given: dict[str, float | str],
    template_ids: set[str],
    problems: Problems,
) -> None:
    """Check what the template needs of a covariate: values that differ, and those of every subject."""
    known = {value for key, value in given.items() if key in template_ids}
    conditional = name in config.template.condition_on
    categorical = any(isinstance(value, str) for value in given.values())
    unseen = [f"'{value}' ({key})" for key, value in given.items() if categorical and value not in known]
    if conditional and len(known) <= 1:
        remedy = "A template can't depend on it: remove it from template.condition_on."
        problems.add(where, f"every value is {next(iter(known), 'missing')}", remedy)
        return
    if conditional and unseen:
        column = config.cohort.template_subjects
        problems.add(
            where,
            f"no subject that builds the template has {abbreviate(unseen)}",
            f"Write n/a, or let a subject with that value build the template too: column '{column}'.",
        )
        return
    key = f"config: template.evaluate_at.{name}"
    for value in config.template.evaluate_at.get(name, []):
        if categorical and value not in known:
            problems.add(key, f"no subject has {value!r}", f"See {where}.")
        if not categorical and not isinstance(value, int | float):
            problems.add(key, f"{value!r} is no number", f"See {where}.")
