"""Numbers and names as they are read."""

from __future__ import annotations

import math
from collections.abc import Mapping

from atlasmith.io.tables import MISSING


def number_text(value: str | float | None) -> str:
    """Format a number in three significant digits, integers and numbers from 100 without decimals.

    Example:
        >>> number_text("0.92671"), number_text(12), number_text(None)
        ('0.927', '12', '–')
    """
    if value is None or value == MISSING or math.isnan(float(value)):
        return "–"
    number = float(value)
    return f"{number:.0f}" if number.is_integer() or abs(number) >= 100 else f"{number:#.3g}"


def words(name: str) -> str:
    """Write the name of a method or metric as words."""
    return name.replace("_", " ")


def interval_text(row: Mapping[str, str]) -> str:
    """Format the 95 % interval of a row of the summary; empty where it has none."""
    if row.get("ci95_low", MISSING) == MISSING:
        return ""
    return f"{number_text(row['ci95_low'])} to {number_text(row['ci95_high'])}"


def size_text(size: int) -> str:
    """Write a number of bytes.

    Example:
        >>> size_text(2_284_381), size_text(900)
        ('2.3 MB', '1 kB')
    """
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{math.ceil(size / 1e3)} kB"


def count_text(count: int, noun: str) -> str:
    """Write a number of things.

    Example:
        >>> count_text(1, "subject"), count_text(3, "subject"), count_text(2, "atlas")
        ('1 subject', '3 subjects', '2 atlases')
    """
    plural = noun + ("es" if noun.endswith("s") else "s")
    return f"{count} {noun if count == 1 else plural}"
