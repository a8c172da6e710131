"""The tables of participants and sessions: ids, roles, template subjects, covariates."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from atlasmith import __version__
from atlasmith.cohort.covariates import IN_TEMPLATE, check_covariate, is_in_template
from atlasmith.cohort.output import read_generators
from atlasmith.cohort.problems import Problems, abbreviate
from atlasmith.cohort.scans import input_files, label_files, scans_of
from atlasmith.cohort.sessions import Row, read_sessions
from atlasmith.config import Config
from atlasmith.core.errors import InputError, did_you_mean
from atlasmith.io.tables import (
    MISSING,
    format_value,
    matching_scans,
    parse_covariate,
    participant_of,
    read_cohort,
    read_tsv,
)

ROLES = ("atlas", "target", "train")
VALID_ID = re.compile("[A-Za-z0-9]+")  # of a participant, after `sub-`


class Participant(NamedTuple):
    """A scan as the tables have it.

    Attributes:
        id: Of the scan, without `sub-`.
        role: atlas, target or train.
        in_template: Whether the subject takes part in building the template.
        covariates: The texts of the config's covariates, in their order.
        files: Names of its images and masks.
    """

    id: str
    role: str
    in_template: bool
    covariates: tuple[str, ...]
    files: tuple[str, ...]


def read_participants(config: Config) -> list[Participant]:
    """Read the scans from the tables and the names of files alone.

    Args:
        config: The run's config.

    Returns:
        Scans in the order of participants.tsv, and of their sessions.

    Raises:
        InputError: With every problem of the tables.
    """
    problems = Problems()
    rows = read_rows(config, problems)
    if problems:
        raise InputError(problems)
    return [
        Participant(
            name,
            row[config.cohort.role_column],
            is_in_template(config, row),
            tuple(format_value(parse_covariate(row[key])) for key in config.cohort.covariates),
            tuple(path.name for path in input_files(config, name)),
        )
        for name, row in rows.items()
    ]


def checked_participants(config: Config) -> dict[str, Participant]:
    """Read the scans as the cohort stage found them when it last ran.

    Args:
        config: The run's config.

    Returns:
        Scans by id; none where this version of the cohort stage hasn't run yet.
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
            tuple(path.name for path in subject.files if path != subject.labels),
        )
        for subject in read_cohort(layout.cohort)
    }


def read_rows(config: Config, problems: Problems) -> dict[str, Row]:
    """Read and check participants.tsv, and the tables of sessions.

    Args:
        config: The run's config.
        problems: Where problems are added.

    Returns:
        Rows by scan without `sub-`, in the table's order, with held-out atlases as targets; none where the
        table or one of its columns is missing.
    """
    table = config.cohort.bids / "participants.tsv"
    participants = _read_table(config, table, problems)
    if not participants or not _check_columns(table, ["participant_id"], participants[0], problems):
        return {}
    by_id = _rows_by_id(table, participants, problems)
    scans, of_sessions = _rows_by_scan(config, by_id, problems)
    cohort, columns = config.cohort, {*participants[0], *of_sessions}
    required = [name for name in (cohort.role, cohort.template_subjects) if name is not None]
    known = [name for name in cohort.covariates if _check_columns(table, [name], columns, problems)]
    if not _check_columns(table, required, columns, problems):
        return {}
    _check_subpopulations(config, scans, problems)
    _check_template_subjects(config, table, scans, problems)
    _check_modes(config, scans, problems)
    _hold_out(config, table, scans, problems)
    _check_roles(config, table, scans, problems)
    for name in known:
        tables = f"{table}{' and sub-*/sub-*_sessions.tsv' if name in of_sessions else ''}"
        check_covariate(config, name, f"{tables}: column '{name}'", scans, problems)
    return {name: row for name, row in scans.items() if VALID_ID.fullmatch(participant_of(name))}


def _read_table(config: Config, table: Path, problems: Problems) -> list[Row]:
    if config.cohort.role is None and not table.exists():
        folders = sorted(path for path in config.cohort.bids.glob("sub-*") if path.is_dir())
        if not folders:
            problems.add(config.cohort.bids, "there is no folder sub-*", "Name a BIDS folder with images.")
        return [{"participant_id": folder.name} for folder in folders]
    if not table.is_file():
        problems.add(table, "no such file", "cohort.bids must name a BIDS folder with a participants.tsv.")
        return []
    rows = problems.collect(read_tsv, table)
    if rows is None:
        return []
    if not rows:
        problems.add(table, "the table has no rows", "Give each subject a row, columns divided by tabs.")
    return rows


def _check_columns(table: Path, names: Sequence[str], columns: Collection[str], problems: Problems) -> bool:
    """Return whether there are some columns; those that are missing are problems."""
    missing = [name for name in names if name not in columns]
    for name in missing:
        hint = ". Or set cohort.role: null, if those with labels are the atlases" if name == "role" else ""
        problems.add(table, f"there is no column '{name}'", did_you_mean(name, columns) + hint)
    return not missing


def _rows_by_id(table: Path, rows: Sequence[Row], problems: Problems) -> dict[str, Row]:
    """Rows by id without `sub-`; a malformed id stays, so that its row counts in the other checks."""
    by_id: dict[str, Row] = {}
    for number, row in enumerate(rows, start=1):
        name, where = row["participant_id"], f"{table}: row {number}"
        plain = name.removeprefix("sub-")
        if plain == name or not VALID_ID.fullmatch(plain):
            remedy = "An id is `sub-` and then letters and digits alone."
            problems.add(where, f"the participant_id is {name!r}", remedy)
            by_id[f"row {number}"] = row
        elif plain in by_id:
            sessions = f" Sessions go into {name}/{name}_sessions.tsv." if "session_id" in row else ""
            problems.add(where, f"{name} has a row already", f"Keep one row per subject.{sessions}")
        else:
            by_id[plain] = row
    return by_id


def _rows_by_scan(
    config: Config, by_id: Mapping[str, Row], problems: Problems
) -> tuple[dict[str, Row], set[str]]:
    """Rows of all scans, and the columns that tables of sessions have."""
    scans: dict[str, Row] = {}
    columns: set[str] = set()
    cohort = config.cohort
    needed = (cohort.role, cohort.template_subjects, *cohort.covariates)
    missing = {name: MISSING for name in needed if name is not None}
    for participant, row in by_id.items():
        names = scans_of(config, participant) if VALID_ID.fullmatch(participant) else [participant]
        sessions = read_sessions(config, participant, names, problems) if names != [participant] else {}
        for name in names:
            own = sessions.get(name, {})
            columns |= own.keys()
            scans[name] = {**missing, **row, **own}
            if cohort.role is None:
                scans[name][cohort.role_column] = "atlas" if label_files(config, name) else "target"
    return scans, columns


def _check_subpopulations(config: Config, scans: Mapping[str, Row], problems: Problems) -> None:
    count, subjects = config.template.subpopulations, len({participant_of(name) for name in scans})
    if count > 1 and subjects < 2 * count:
        found = f"{count} subpopulations of {subjects} subjects"
        problems.add("config: template.subpopulations", found, "Lower it: each needs 2 or more subjects.")


def _check_modes(config: Config, scans: Mapping[str, Row], problems: Problems) -> None:
    modes, count = config.register_.modes, sum(is_in_template(config, row) for row in scans.values())
    if modes is not None and modes >= count:
        found = f"{modes} modes of variation of the template's {count} subjects"
        problems.add("config: register.modes", found, "Lower it: subjects are more than modes.")


def _check_template_subjects(
    config: Config, table: Path, scans: Mapping[str, Row], problems: Problems
) -> None:
    column = config.cohort.template_subjects
    if column is None:
        return
    where = f"{table}: column '{column}'"
    wrong = [f"'{row[column]}' (sub-{name})" for name, row in scans.items() if row[column] not in IN_TEMPLATE]
    count = len({participant_of(name) for name, row in scans.items() if row[column] == "yes"})
    if wrong:
        problems.add(where, f"found {abbreviate(wrong)}", "Write yes or no.")
    elif count < 2:
        problems.add(where, f"{count or 'no'} subject has yes", "A template needs 2 or more.")
    elif config.template.subpopulations > 1 and any(row[column] == "no" for row in scans.values()):
        problems.add(
            "config: template.subpopulations",
            f"subjects with no in {where} belong to no subpopulation",
            "Give them to `atlasmith segment` instead, one by one, or set cohort.template_subjects to null.",
        )


def _hold_out(config: Config, table: Path, scans: dict[str, Row], problems: Problems) -> None:
    """Make targets of the atlases that the config holds out, in place: of all scans of a participant."""
    role, key = config.cohort.role_column, "config: cohort.hold_out"
    atlases = [name for name, row in scans.items() if row[role] == "atlas"]
    for wanted in config.cohort.hold_out:
        held_out = matching_scans(atlases, wanted)
        for name in held_out:
            scans[name][role] = "target"
        if not held_out:
            names = [f"sub-{name}" for name in atlases]
            problems.add(key, f"'{wanted}' is no atlas of {table}", did_you_mean(wanted, names))
    held_out = [name for name in atlases if scans[name][role] == "target"]
    remaining = [name for name in atlases if scans[name][role] == "atlas"]
    for participant in sorted({participant_of(name) for name in held_out}):
        if others := matching_scans(remaining, participant):
            found = f"sub-{others[0]} remains an atlas, and another scan of that subject is held out"
            problems.add(key, found, f"Write sub-{participant}, which holds out all its scans.")


def _check_roles(config: Config, table: Path, scans: Mapping[str, Row], problems: Problems) -> None:
    role = config.cohort.role_column
    unknown = dict.fromkeys(row[role] for row in scans.values() if row[role] not in ROLES)
    for value in unknown:
        names = [f"sub-{name}" for name, row in scans.items() if row[role] == value]
        problems.add(table, f"the role of {abbreviate(names)} is '{value}'", did_you_mean(value, ROLES))
    if not unknown:
        # Networks are trained on atlases propagated to one another.
        networks = config.fusion.networks
        least = 2 if networks else 1
        targets = [name for name, row in scans.items() if row[role] == "target"]
        segmented = {"target", "train"} if config.fusion.train_subjects else {"target"}
        atlases = {participant_of(name) for name, row in scans.items() if row[role] == "atlas"}
        alone = [
            f"sub-{name}"
            for name, row in scans.items()
            if row[role] in segmented and atlases == {participant_of(name)}
        ]
        if len(atlases) < least:
            reason = f", since fusion.methods has {' and '.join(networks)}" if networks else ""
            found = f"{len(atlases) or 'no'} subject has the role 'atlas'"
            remedy = f"Give that role to {least} or more subjects with manual labels{reason}."
            if config.cohort.role is None:
                found = f"{len(atlases) or 'no'} subject has labels"
                remedy = f"Add sub-X/anat/sub-X_dseg.nii.gz of {least} or more subjects{reason}."
                table = config.cohort.bids / (config.cohort.labels or "")
            problems.add(table, found, remedy)
        elif alone:
            found = f"the only atlases for {abbreviate(alone)} are scans of the same subject"
            remedy = "Give other subjects that role, too: a subject isn't segmented by its own labels."
            problems.add(table, found, remedy)
        if not targets:
            remedy = "Give that role to the subjects to segment."
            found = "no subject has the role 'target'"
            if config.cohort.role is None:
                found = "every subject has labels, and none is left to segment"
                remedy = "Add images without labels, or hold atlases out: cohort.hold_out: [sub-X]."
            problems.add(table, found, remedy)
    if len({participant_of(name) for name in scans}) < 2:
        problems.add(table, "there is only one subject", "A template needs 2 or more.")
