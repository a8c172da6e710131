"""Collect the problems of a cohort, so that all are reported at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from atlasmith.core.errors import InputError, Problem

Result = TypeVar("Result")


class Problems(list[Problem]):
    """The problems found so far."""

    def add(self, where: str | Path, found: str, remedy: str) -> None:
        """Add one problem."""
        self.append(Problem(where, found, remedy))

    def collect(self, check: Callable[..., Result], *arguments: Any) -> Result | None:
        """Call a check that raises its problems.

        Args:
            check: Raises `InputError` with what it finds.
            arguments: What it is called with.

        Returns:
            What `check` returns, or None if it raised problems, which are added.
        """
        try:
            return check(*arguments)
        except InputError as error:
            self.extend(error.problems)
            return None

    def collect_from_file(self, check: Callable[..., Result], path: Path, *arguments: Any) -> Result | None:
        """Call a check of a NIfTI file, and add a problem as well where the file can't be read.

        Args:
            check: Raises `InputError` with what it finds; called with `path` and `arguments`.
            path: The file.
            arguments: Further arguments.

        Returns:
            What `check` returns, or None where there are problems.
        """
        try:
            return self.collect(check, path, *arguments)
        except Exception as error:  # readers raise anything at all on damaged bytes
            found = f"this can't be read as NIfTI ({type(error).__name__}: {error})"
            self.add(path, found, "Copy or convert it again.")
            return None


def refuse(where: str | Path, found: str, remedy: str) -> NoReturn:
    """Raise `InputError` with one problem."""
    raise InputError([Problem(where, found, remedy)])


def abbreviate(names: Sequence[str]) -> str:
    """Join names for a message: three of them, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
