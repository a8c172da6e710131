"""The tables of sessions, which give roles and covariates that differ between a participant's scans."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from atlasmith.cohort.problems import Problems
from atlasmith.cohort.scans import is_wanted
from atlasmith.config import Config
from atlasmith.core.errors import did_you_mean
from atlasmith.io.tables import MISSING, read_tsv

Row = dict[str, str]


def read_sessions(
    config: Config, participant: str, scans: Sequence[str], problems: Problems
) -> dict[str, Row]:
    """Read what `sub-X/sub-X_sessions.tsv` says of a participant's scans.

    Args:
        config: The run's config.
        participant: Id without `sub-`.
        scans: The participant's scans.
        problems: Where problems of the table are added.

    Returns:
        Of each scan the values that replace those of participants.tsv; none where there is no such table. A
        missing role, or missing place in the template, replaces nothing; a missing covariate stays missing.
    """
    table = sessions_table(config, participant)
    if not table.is_file() or not (rows := problems.collect(read_tsv, table)):
        return {}
    if "session_id" not in rows[0]:
        problems.add(table, "there is no column 'session_id'", did_you_mean("session_id", rows[0]))
        return {}
    by_scan: dict[str, Row] = {}
    for row in rows:
        session = row.pop("session_id")
        scan = f"{participant}_{session}"
        if scan in by_scan:
            problems.add(table, f"{session} has two rows", "Keep one row per session.")
        by_scan[scan] = row
    kept = (config.cohort.role_column, config.cohort.template_subjects)
    read = [name for name in rows[0] if name in (*kept, *config.cohort.covariates)]
    for scan in scans if read else ():
        if scan not in by_scan:
            session = scan.removeprefix(f"{participant}_")
            problems.add(table, f"there is no row for {session}", did_you_mean(session, _names(by_scan)))
    _check_sessions_without_image(config, table, by_scan, scans, problems)
    return {
        scan: {key: by_scan[scan][key] for key in read if key not in kept or by_scan[scan][key] != MISSING}
        for scan in scans
        if scan in by_scan
    }


def sessions_table(config: Config, participant: str) -> Path:
    """Return where a participant's table of sessions is, if there is one."""
    return config.cohort.bids / f"sub-{participant}" / f"sub-{participant}_sessions.tsv"


def _check_sessions_without_image(
    config: Config, table: Path, by_scan: dict[str, Row], scans: Sequence[str], problems: Problems
) -> None:
    """Add a problem for each session that has a role, but no image."""
    for scan, row in by_scan.items():
        role = row.get(config.cohort.role_column, MISSING)
        if role != MISSING and scan not in scans and is_wanted(config, scan):
            found = f"sub-{scan} has the role '{role}', and no image"
            problems.add(table, found, "Add the image, or write n/a.")


def _names(scans: dict[str, Row]) -> list[str]:
    """The sessions of scans."""
    return [scan.partition("_")[2] for scan in scans]
