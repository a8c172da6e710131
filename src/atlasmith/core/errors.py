"""Errors that a user can correct: each names the file, the value found and the remedy."""

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
    """An error that a user can correct; the CLI prints its message without a traceback.

    Attributes:
        exit_code: Of the command line.
    """

    exit_code = 2


class IncompleteError(AtlasmithError):
    """Some results are there, and others failed or need review."""

    exit_code = 1


@dataclass(frozen=True)
class Problem:
    """One problem of the input.

    Args:
        where: The file, or the key of the config.
        found: What was found there.
        remedy: What to do about it, a sentence.
    """

    where: str | Path
    found: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.where}: {self.found}. {self.remedy}"


class InputError(AtlasmithError):
    """All problems of an input at once.

    Args:
        problems: At least one.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = list(problems)
        count = len(self.problems)
        head = f"{count} problem{'s' if count != 1 else ''} found:"
        super().__init__("\n".join([head, *(f"  - {problem}" for problem in self.problems)]))


# System errors that a user can correct, and how.
REMEDIES = {
    errno.ENOSPC: "The disk is full.",
    errno.EDQUOT: "Your quota is used up.",
    errno.EFBIG: "Files may not grow so large here.",
    errno.EROFS: "Nothing can be written there.",
    errno.EACCES: "You may not read or write there.",
    errno.ENOENT: "It was there when the cohort was checked, or an earlier stage should have made it.",
    errno.EIO: "The disk, or the way to it, fails.",
    errno.ENOMEM: "Give the job more memory, or see docs/scaling.md for what takes less.",
}
OUT_OF_MEMORY = ("can't allocate memory", "out of memory")  # in the messages of torch
GPU_REMEDY = "Use `--device cpu`, or `gpu: 0` for the stage in a profile: see docs/howto/cluster.md."


# Those that have nothing to do with the subject that is computed: every other would meet them, too.
MACHINE_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.ENOMEM)


def system_fault(error: Exception) -> str | None:
    """Describe an error of the system, such as a full disk, a missing file or too little memory.

    Args:
        error: Any error; libraries often give the system's message without its number.

    Returns:
        A message with the remedy, or None for other errors.
    """
    number = _fault_number(error)
    if number is None:
        return None
    if number == errno.ENOMEM and "CUDA" in str(error):
        return f"{first_line(error)}. {GPU_REMEDY}"
    if number == errno.ENOMEM:
        return f"out of memory. {REMEDIES[number]}"
    if getattr(error, "errno", None) == number:
        where = getattr(error, "filename", None) or "a file"
        return f"{where}: {os.strerror(number)}. {REMEDIES[number]}"
    return f"{error}. {REMEDIES[number]}"


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, without its period; torch's may have a dozen."""
    return str(error).partition("\n")[0].removesuffix(".")


def is_machine_fault(error: Exception) -> bool:
    """Tell whether an error is the machine's, such as a full disk, and not of the data at hand."""
    return _fault_number(error) in MACHINE_FAULTS


def _fault_number(error: Exception) -> int | None:
    """The system's number of an error, which libraries often leave out; None for other errors."""
    message = str(error)
    if isinstance(error, MemoryError) or any(words in message for words in OUT_OF_MEMORY):
        return errno.ENOMEM
    for number in REMEDIES:
        if getattr(error, "errno", None) == number or os.strerror(number) in message:
            return number
    return None


def did_you_mean(value: str, choices: Iterable[str]) -> str:
    """Suggest the nearest known name, and list all.

    Args:
        value: An unknown name.
        choices: The known ones.

    Returns:
        The end of a message.

    Example:
        >>> did_you_mean("lnc", ["lncc", "mse"])
        "Did you mean 'lncc'? Choices: lncc, mse"
    """
    names = sorted(choices)
    close = difflib.get_close_matches(value, names, n=1)
    hint = f"Did you mean '{close[0]}'? " if close else ""
    return f"{hint}Choices: {', '.join(names)}"


def look_up(table: Mapping[str, T], name: str, what: str) -> T:
    """Return an entry of a table of choices.

    Args:
        table: Entries by name.
        name: Which one.
        what: The kind of entry, for the message.

    Returns:
        The entry.

    Raises:
        AtlasmithError: If there is none, with the nearest known name.
    """
    if name not in table:
        raise AtlasmithError(f"unknown {what} '{name}'. {did_you_mean(name, table)}")
    return table[name]
