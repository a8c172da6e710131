"""Whether a column of texts holds categories, or numbers and missing values that are written otherwise."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from atlasmith.cohort.problems import abbreviate

MISSING_WORDS = {
    "n/a",
    "na",
    "n.a.",
    "nan",
    "nil",
    "none",
    "null",
    "missing",
    ".",
    "-",
    "?",
}  # in small letters
STARTS_WITH_DIGIT = re.compile(r"[<>=~≤≥≈+\-−.,\s]*\d")
DISTINCT, DISTINCT_SHARE = 5, 0.8  # categories, and as a share of the subjects, from which on they are none


def category_problem(values: Mapping[str, str]) -> tuple[str, str] | None:
    """Find why the texts of a column can't be categories.

    Args:
        values: The texts that are given, by subject.

    Returns:
        What was found and the remedy; None where they can be categories.

    Example:
        >>> category_problem({"sub-01": "072Y", "sub-02": "068Y"})[0]
        "values such as '072Y' (sub-01), '068Y' (sub-02) begin with digits, and are no numbers"
    """
    if odd := _shown(values, lambda text: text.strip().lower() in MISSING_WORDS or not text.strip()):
        return f"{odd} seems to stand for a missing value", "Write n/a."
    if odd := _shown(values, lambda text: text != text.strip()):
        return f"{odd} begins or ends with a blank", "Remove the blank."
    numbers = {key: text for key, text in values.items() if STARTS_WITH_DIGIT.match(text)}
    if 2 * len(numbers) > len(values):
        return (
            f"values such as {_shown(numbers)} begin with digits, and are no numbers",
            "Write numbers without unit, with a point for decimals, such as 72.5; begin names of categories "
            "with a letter.",
        )
    spellings: dict[str, set[str]] = {}
    for text in values.values():
        spellings.setdefault(text.casefold(), set()).add(text)
    if alike := [sorted(group) for group in spellings.values() if len(group) > 1]:
        return " and ".join(map(repr, alike[0])) + " differ by capital letters alone", "Write one of them."
    if len(spellings) >= DISTINCT and len(spellings) > DISTINCT_SHARE * len(values):
        return (
            f"{len(spellings)} of {len(values)} values differ, such as {_shown(values)}, so that they are no "
            "categories",
            "Write numbers, or few categories, or remove the name from cohort.covariates.",
        )
    return None


def _shown(values: Mapping[str, str], wanted: Callable[[str], bool] = bool) -> str:
    """Join the wanted values for a message."""
    return abbreviate([f"{text!r} ({key})" for key, text in values.items() if wanted(text)])
