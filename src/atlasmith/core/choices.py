"""Entries of the tables that a config chooses from by name: similarities, networks, fusion methods."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import WRAPPER_ASSIGNMENTS, partial
from typing import Annotated, Any, Generic, Self, TypeVar, get_args, get_type_hints

from atlasmith.core.errors import AtlasmithError, did_you_mean

Result = TypeVar("Result", covariant=True)


@dataclass(frozen=True)
class Range:
    """The values that a setting of some type may have.

    Args:
        text: Which, to follow "a number".
        holds: Whether a value is one of them.
    """

    text: str
    holds: Callable[[float], bool]


# Of settings without one of the types below: of whole numbers whose default isn't 0, and of all others.
COUNT, NOT_NEGATIVE = Range("of at least 1", lambda x: x >= 1), Range("of at least 0", lambda x: x >= 0)

Positive = Annotated[float, Range("above 0", lambda x: x > 0)]
Share = Annotated[float, Range("from 0 to 1", lambda x: 0 <= x <= 1)]
Fraction = Annotated[float, Range("above 0 and below 1", lambda x: 0 < x < 1)]
CountOrZero = Annotated[int, NOT_NEGATIVE]


def is_number(value: Any) -> bool:
    """Return whether `value` is a finite number; a boolean is none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


@dataclass(frozen=True)
class Choice(Generic[Result]):
    """Declare one entry of a table of choices: a function or class, and all that other modules ask of it.

    An entry is called as its function. Each kind of choice is a subclass, which adds what an entry of that
    kind declares, such as the inputs that a regularizer needs. No module but the table names an entry.

    Args:
        function: What the choice computes, or the class that it builds.
        text: What it is and when to use it, in a sentence or two, for the report and the docs.

    Example:
        >>> @Choice.declare("Twice a number, or another multiple of it.")
        ... def double(x: float, factor: float = 2.0) -> float:
        ...     return factor * x
        >>> double(3.0), double.settings, double.setting_problem("factor", "x")
        (6.0, {'factor': 2.0}, ("'x' is no number", 'The default is 2.0.'))
    """

    function: Callable[..., Result]
    text: str

    def __post_init__(self) -> None:
        # As `functools.wraps` does, so that `help` and `doctest` find the function's own docstring.
        names = [name for name in WRAPPER_ASSIGNMENTS if hasattr(self.function, name)]
        vars(self).update({name: getattr(self.function, name) for name in names}, __wrapped__=self.function)

    @classmethod
    def declare(cls, text: str, **declarations: Any) -> Callable[[Callable[..., Result]], Self]:
        """Return a decorator that makes an entry of a function, with this text and further fields."""
        return partial(cls, text=text, **declarations)

    def __call__(self, *args: Any, **kwargs: Any) -> Result:
        """Call the function."""
        return self.function(*args, **kwargs)

    @property
    def settings(self) -> dict[str, Any]:
        """The parameters that a config may set, with their defaults: numbers, booleans and strings."""
        parameters = inspect.signature(self.function).parameters.values()
        return {p.name: p.default for p in parameters if isinstance(p.default, int | float | str)}

    def setting_problem(self, name: str, value: Any) -> tuple[str, str] | None:
        """Check the value of one of the `settings`.

        It must be a boolean, a whole number or a number, as the default is, or for a string one of the values
        that the parameter's `Literal` type lists. Numbers must be at least 0, and whole numbers at least 1
        where the default is, unless the type is one of `Positive`, `Share`, `Fraction` and `CountOrZero`.

        Args:
            name: A key of `settings`.
            value: What a config gives for it.

        Returns:
            What was found and the remedy, or None where the value may be used.
        """
        default = self.settings[name]
        kind = self._type_of(name)
        if isinstance(default, bool):
            return None if isinstance(value, bool) else (f"{value!r} is no boolean", "Give true or false.")
        if isinstance(default, str):
            values = get_args(kind)
            return None if value in values else (f"unknown value {value!r}", did_you_mean(str(value), values))
        remedy = f"The default is {default}."
        if not is_number(value):
            return f"{value!r} is no number", remedy
        if isinstance(default, int) and not isinstance(value, int):
            return f"{value!r} is no whole number", remedy
        usual = COUNT if isinstance(default, int) and default > 0 else NOT_NEGATIVE
        limits = next(iter(getattr(kind, "__metadata__", ())), usual)
        if limits.holds(value):
            return None
        return f"{value!r} is out of range", f"Give a number {limits.text}. {remedy}"

    def check_settings(self, settings: Mapping[str, Any]) -> None:
        """Raise `AtlasmithError` for a setting that the entry doesn't have, or whose value can't be used."""
        known = self.settings
        for name, value in settings.items():
            if name not in known:
                raise AtlasmithError(f"unknown setting '{name}'. {did_you_mean(name, known)}")
            if problem := self.setting_problem(name, value):
                raise AtlasmithError(f"setting '{name}': {problem[0]}. {problem[1]}")

    def _type_of(self, name: str) -> Any:
        """The declared type of a parameter; None without one."""
        hints = get_type_hints(self.function, include_extras=True)
        if name not in hints and inspect.isclass(self.function):  # of a class that isn't a dataclass
            hints = get_type_hints(vars(self.function)["__init__"], include_extras=True)
        return hints.get(name)
