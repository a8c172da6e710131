"""What a verb of the command line is."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Verb:
    """A verb of the command line.

    Attributes:
        name: The verb.
        text: What it does, for `--help`.
        add_arguments: Adds its arguments to a parser.
        run: Runs it with the parsed arguments; returns the exit code, None for 0.
        passes_on: Whether arguments that it doesn't know are passed on, as `args.arguments`.
    """

    name: str
    text: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int | None]
    passes_on: bool = False


def call(target: str, *arguments: Any, **named: Any) -> Any:
    """Import a function, call it, and return what it returns.

    A stage is imported when its verb runs: `atlasmith --help` and the affine stage need no torch.

    Args:
        target: `module:function`.
        arguments: Positional arguments of the function.
        named: Keyword arguments of the function.
    """
    module, function = target.split(":")
    return getattr(import_module(module), function)(*arguments, **named)


def add_out(parser: argparse._ActionsContainer, text: str, required: bool = True) -> None:
    """Add `--out`, the folder to write to."""
    parser.add_argument("--out", type=Path, required=required, metavar="DIR", help=text)


def add_device(parser: argparse._ActionsContainer, default: str) -> None:
    """Add `--device`, where to compute."""
    text = f"where to compute; default: {default}"
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), help=text)


def assignment(text: str) -> tuple[str, str]:
    """Parse an argument of the form NAME=VALUE."""
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise argparse.ArgumentTypeError(f"'{text}' isn't NAME=VALUE")
    return name, value
