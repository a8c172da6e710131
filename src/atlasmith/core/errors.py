"""Errors that a user can act on: each names the file, the value found and the remedy."""

from __future__ import annotations

import difflib
import errno
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


class AtlasmithError(Exception):
    """Something a user can mend. The CLI prints the message without a traceback and exits with 2."""


@dataclass(frozen=True)
class Problem:
    """One fault of the input: where it is, what was found, what to do about it."""

    where: str | Path
    found: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.where}: {self.found}. {self.remedy}"


class InputError(AtlasmithError):
    """All problems of an input at once."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = list(problems)
        count = len(self.problems)
        head = f"{count} problem{'s' if count != 1 else ''} found:"
        super().__init__("\n".join([head, *(f"  - {problem}" for problem in self.problems)]))


# What the system says when it can't go on, and what that means for the user.
FAULTS = {
    errno.ENOSPC: "The disk is full.",
    errno.EDQUOT: "Your quota is used up.",
    errno.EFBIG: "Files may not grow so large here.",
    errno.EROFS: "Nothing can be written there.",
    errno.EACCES: "You may not read or write there.",
    errno.ENOENT: "It was there when the cohort was checked, or an earlier stage should have made it.",
    errno.EIO: "The disk, or the way to it, fails.",
    errno.ENOMEM: "Give the job more memory, or see docs/scaling.md for what takes less.",
}
NO_MEMORY = ("can't allocate memory", "out of memory")  # as torch has it


def system_fault(error: Exception) -> str | None:
    """A message about a full disk, a vanished file, too little memory and the like; None for other errors.

    Libraries hand on the system's words, but often no number.
    """
    said = str(error)
    if isinstance(error, MemoryError) or any(words in said for words in NO_MEMORY):
        return f"out of memory. {FAULTS[errno.ENOMEM]}"
    for number, meaning in FAULTS.items():
        if getattr(error, "errno", None) == number:
            return f"{getattr(error, 'filename', None) or 'a file'}: {os.strerror(number)}. {meaning}"
        if os.strerror(number) in said:
            return f"{said}. {meaning}"
    return None


def did_you_mean(value: str, choices: Iterable[str]) -> str:
    """The sentence that ends a message about an unknown name."""
    names = sorted(choices)
    close = difflib.get_close_matches(value, names, n=1)
    hint = f"Did you mean '{close[0]}'? " if close else ""
    return f"{hint}Choices: {', '.join(names)}"


def look_up(table: Mapping[str, T], name: str, what: str) -> T:
    """Entry `name` of a table of choices; raises `AtlasmithError` with a suggestion when there is none."""
    if name not in table:
        raise AtlasmithError(f"unknown {what} '{name}'. {did_you_mean(name, table)}")
    return table[name]
