"""Verbs over a finished run: one new image, or the template at some covariates."""

from __future__ import annotations

import argparse
from pathlib import Path

from atlasmith.cli.verbs import Verb, add_out, call


def _assignment(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise argparse.ArgumentTypeError(f"'{text}' isn't NAME=VALUE")
    return name, value


def _add_results(parser: argparse._ActionsContainer, about_set: str, required: bool) -> None:
    text = "output folder of the finished run"
    parser.add_argument("--results", type=Path, metavar="DIR", help=text, required=required)
    add_out(parser, "folder to write to", required)
    parser.add_argument(
        "--set", type=_assignment, action="append", default=[], metavar="NAME=VALUE", help=about_set
    )


def add_image(parser: argparse._ActionsContainer, required: bool = False) -> None:
    """Add the arguments of a verb that takes a new image through a finished run."""
    parser.add_argument("--image", type=Path, metavar="FILE", help="the image, NIfTI", required=required)
    _add_results(parser, "a covariate of the subject, such as age=72; once for each", required)


def add_query(parsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `query`, which evaluates the template of a finished run."""
    text = "evaluate a finished run's template at some covariates: image, labels, volumes"
    parser = parsers.add_parser("query", help=text, description=text)
    _add_results(parser, "a covariate, such as age=72; once for each; others are at the mean", required=False)


def register_image(args: argparse.Namespace) -> None:
    """Register a new image, and segment it where the verb is `segment`."""
    target = "atlasmith.inference.image:register_image"
    call(target, args.results, args.image, dict(args.set), args.out, segment=args.verb == "segment")


def query_template(args: argparse.Namespace) -> None:
    """Evaluate the template of a finished run."""
    call("atlasmith.inference.query:query_template", args.results, dict(args.set), args.out)


VERBS = [
    Verb(
        "segment",
        "segment one raw image through a finished run: labels, confidence and volumes by every method",
        lambda parser: add_image(parser, required=True),
        register_image,
    )
]
