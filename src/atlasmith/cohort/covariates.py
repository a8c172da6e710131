"""Checks of covariates, and which subjects' covariates the template learns from."""

from __future__ import annotations

import math
from collections.abc import Mapping

from atlasmith.cohort.categories import category_problem
from atlasmith.cohort.problems import Problems, abbreviate
from atlasmith.cohort.sessions import Row
from atlasmith.config import Config
from atlasmith.io.tables import CHANNEL_COLUMN, COLUMNS, OPTIONAL_COLUMNS, parse_covariate

IN_TEMPLATE = {"yes": True, "no": False}


def is_in_template(config: Config, row: Row) -> bool:
    """Return whether the scan of a row takes part in building the template."""
    column = config.cohort.template_subjects
    return column is None or IN_TEMPLATE.get(row[column], True)


def check_covariate(
    config: Config, name: str, where: str, scans: Mapping[str, Row], problems: Problems
) -> None:
    """Check a covariate's values: of one kind, finite, and fit for the template.

    Args:
        config: The run's config.
        name: The covariate.
        where: Its column, for messages.
        scans: Rows by scan.
        problems: Where problems are added.
    """
    remedy = "Write n/a where a value is missing, or remove the name from cohort.covariates."
    if name in (*COLUMNS, *OPTIONAL_COLUMNS) or name.startswith(CHANNEL_COLUMN):
        problems.add(where, "this name has another use here", "Rename the column.")
        return
    values = {f"sub-{scan}": parse_covariate(row[name]) for scan, row in scans.items()}
    given = {key: value for key, value in values.items() if value is not None}
    texts = {key: value for key, value in given.items() if isinstance(value, str)}
    infinite = [key for key, value in given.items() if isinstance(value, float) and not math.isfinite(value)]
    if not given:
        problems.add(where, "every value is missing", remedy)
    elif infinite:
        problems.add(where, f"the value of {abbreviate(infinite)} is no finite number", remedy)
    elif texts and len(texts) < len(given):
        found = abbreviate([f"'{value}' ({key})" for key, value in texts.items()])
        problems.add(where, f"{found} is no number, while other rows hold numbers", remedy)
    elif texts and (fault := category_problem(texts)):
        problems.add(where, *fault)
    else:
        template_ids = {f"sub-{scan}" for scan, row in scans.items() if is_in_template(config, row)}
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
