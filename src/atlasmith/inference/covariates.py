"""Check given covariates against those of a cohort."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from atlasmith.core.errors import Problem, did_you_mean
from atlasmith.io.tables import Subject, parse_covariate

Values = dict[str, float | str | None]

FAR = 0.5  # of the length of the cohort's range, beyond its ends


def numeric_values(name: str, cohort: Sequence[Subject]) -> list[float]:
    """Return the cohort's values of a covariate that are numbers."""
    return [value for subject in cohort if isinstance(value := subject.covariates.get(name), float)]


def check_covariates(
    covariates: Mapping[str, str], known: Sequence[str], cohort: Sequence[Subject]
) -> tuple[Values, list[Problem]]:
    """Parse covariates and check them against a cohort.

    Args:
        covariates: Values as text, by name.
        known: Names of the run's covariates.
        cohort: The run's subjects.

    Returns:
        A value for each known name, None where it isn't given, and all problems found.
    """
    values: Values = dict.fromkeys(known)
    problems = []
    for name, text in covariates.items():
        if name not in known:
            found = f"'{name}' is no covariate of this run"
            problems.append(Problem("--set", found, did_you_mean(name, known) if known else "Leave it out."))
            continue
        values[name] = parse_covariate(text)
        numbers = numeric_values(name, cohort)
        levels = {str(level) for subject in cohort if (level := subject.covariates.get(name)) is not None}
        value = values[name]
        if numbers and not (isinstance(value, float) and math.isfinite(value)):
            problems.append(Problem("--set", f"{name} is '{text}', no number", f"Try {name}={numbers[0]:g}."))
        elif not numbers and levels and text not in levels:
            found = f"no subject of the cohort has {name} '{text}'"
            problems.append(Problem("--set", found, f"There are: {', '.join(sorted(levels))}."))
    return values, problems


def extrapolation_problems(values: Values, names: Sequence[str], cohort: Sequence[Subject]) -> list[Problem]:
    """Find numbers so far outside the cohort's range that the template there means nothing.

    Args:
        values: Of the covariates, from `check_covariates`.
        names: The covariates that the template is a function of.
        cohort: The run's subjects.

    Returns:
        A problem for each beyond `FAR` of the range's length from its ends.
    """
    problems = []
    for name in names:
        value, numbers = values.get(name), numeric_values(name, cohort)
        if isinstance(value, float) and numbers:
            low, high = min(numbers), max(numbers)
            if not low - FAR * (high - low) <= value <= high + FAR * (high - low):
                found = f"{name} {value:g} is far outside the cohort's range, {low:g} to {high:g}"
                problems.append(Problem("--set", found, "Correct it, or extrapolate by --extrapolate."))
    return problems


def warn_extrapolation(verb: str, name: str, value: float | str | None, cohort: Sequence[Subject]) -> None:
    """Print a warning where a covariate is missing or outside the cohort's range.

    Args:
        verb: The verb of the command line, or the scan, which starts the message.
        name: The covariate.
        value: Its value, None where it isn't given.
        cohort: The run's subjects.
    """
    numbers = numeric_values(name, cohort)
    if value is None:
        print(f"{verb}: no {name} is given, so the template at the cohort's mean is used. See --set.")
    elif isinstance(value, float) and not min(numbers) <= value <= max(numbers):
        print(
            f"{verb}: {name} {value:g} is outside the cohort's range, {min(numbers):g} to "
            f"{max(numbers):g}: the template there is an extrapolation."
        )
