"""The command line: parse, run one verb, turn errors into exit codes."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from atlasmith import __version__
from atlasmith.cli import demo, inference, launch, schema, stages
from atlasmith.core.errors import AtlasmithError, system_fault
from atlasmith.core.progress import heartbeat, peak_memory
from atlasmith.io.files import expand_path

VERBS = {
    verb.name: verb for verb in (*launch.VERBS, *stages.VERBS, *inference.VERBS, *demo.VERBS, *schema.VERBS)
}


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of all verbs."""
    parser = argparse.ArgumentParser(
        prog="atlasmith",
        description="From a cohort of medical images to a template, registrations and segmentations. "
        "The Snakemake workflow calls these verbs in order; each runs one stage.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    parsers = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for verb in VERBS.values():
        own = parsers.add_parser(
            verb.name, help=verb.text, description=verb.text, allow_abbrev=not verb.passes_on
        )
        verb.add_arguments(own)
    return parser


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line; arguments that are passed on are in `arguments`."""
    parser = build_parser()
    args, others = parser.parse_known_args(argv)
    if others and not VERBS[args.verb].passes_on:
        parser.error(f"unrecognized arguments: {' '.join(others)}")
    args.arguments = [argument for argument in others if argument != "--"]
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb.

    Args:
        argv: Arguments without the program's name; None takes those of the process.

    Returns:
        The exit code: 0; 2 after printing an error that the user can correct; 1 where some results are there.

    Example:
        >>> main(["cohort", "--config", "nowhere.yaml"])
        2
    """
    args = parse(argv)
    start = time.monotonic()
    try:
        _expand_paths(args)
        if VERBS[args.verb].passes_on:  # to a program that shows what it does
            return VERBS[args.verb].run(args) or 0
        with heartbeat(f"atlasmith {args.verb}"):
            VERBS[args.verb].run(args)
    except AtlasmithError as error:
        print(f"atlasmith {args.verb}: {error}", file=sys.stderr)
        return error.exit_code
    except Exception as error:
        fault = system_fault(error)
        if fault is None:
            raise
        print(f"atlasmith {args.verb}: {fault} What is finished stays; start again.", file=sys.stderr)
        return 2
    if hasattr(args, "config"):
        seconds = time.monotonic() - start
        print(f"atlasmith {args.verb}: {seconds:.1f} s, {peak_memory():.2f} GiB at most")
    return 0


def _expand_paths(args: argparse.Namespace) -> None:
    """Expand `~` and environment variables where a shell didn't: in quotes, and after `=`."""
    for name, value in vars(args).items():
        try:
            if isinstance(value, Path):
                setattr(args, name, expand_path(value))
            elif isinstance(value, list):
                setattr(args, name, [expand_path(x) if isinstance(x, Path) else x for x in value])
        except ValueError as error:
            raise AtlasmithError(f"--{name.replace('_', '-')} {value}: {error}. Correct the path.") from None
