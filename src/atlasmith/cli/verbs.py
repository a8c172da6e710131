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
        run: Runs it with the parsed arguments.
    """

    name: str
    text: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], None]


def call(target: str, *arguments: Any, **named: Any) -> None:
    """Import a function and call it.

    A stage is imported when its verb runs: `atlasmith --help` and the affine stage need no torch.

    Args:
        target: `module:function`.
        arguments: Positional arguments of the function.
        named: Keyword arguments of the function.
    """
    module, function = target.split(":")
    getattr(import_module(module), function)(*arguments, **named)


def add_out(parser: argparse._ActionsContainer, text: str, required: bool = True) -> None:
    """Add `--out`, the folder to write to."""
    parser.add_argument("--out", type=Path, required=required, metavar="DIR", help=text)
