"""The command line: parse, run one verb, turn errors into exit codes."""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Sequence

from atlasmith import __version__
from atlasmith.cli import demo, inference, schema, stages
from atlasmith.core.errors import AtlasmithError, system_fault

VERBS = {verb.name: verb for verb in (*stages.VERBS, *inference.VERBS, *demo.VERBS, *schema.VERBS)}


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
        verb.add_arguments(parsers.add_parser(verb.name, help=verb.text, description=verb.text))
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb.

    Args:
        argv: Arguments without the program's name; None takes those of the process.

    Returns:
        The exit code: 0, or 2 after printing an error that the user can correct.

    Example:
        >>> main(["cohort", "--config", "nowhere.yaml"])
        2
    """
    args = build_parser().parse_args(argv)
    start = time.monotonic()
    try:
        VERBS[args.verb].run(args)
    except AtlasmithError as error:
        print(f"atlasmith {args.verb}: {error}", file=sys.stderr)
        return 2
    except Exception as error:
        fault = system_fault(error)
        if fault is None:
            raise
        print(f"atlasmith {args.verb}: {fault} What is finished stays; start again.", file=sys.stderr)
        return 2
    if hasattr(args, "config"):
        seconds = time.monotonic() - start
        print(f"atlasmith {args.verb}: {seconds:.1f} s, {_peak_memory():.2f} GiB at most")
    return 0


def _peak_memory() -> float:
    """Peak memory of this process on CPU and GPU together, GiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)
    torch = sys.modules.get("torch")
    return peak + (torch.cuda.max_memory_allocated() / 2**30 if torch and torch.cuda.is_available() else 0)
