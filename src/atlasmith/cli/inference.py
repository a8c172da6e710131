"""Verbs over a finished run: new images, or the template at some covariates or along its modes."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from atlasmith.cli.verbs import Verb, add_device, add_out, assignment, call
from atlasmith.core.errors import IncompleteError

if TYPE_CHECKING:
    from atlasmith.inference.prediction import Prediction

ANY_DEVICE = "a GPU if there is one"  # whatever the run was made on


def _add_results(parser: argparse._ActionsContainer, about_set: str, required: bool) -> None:
    text = "output folder of the finished run"
    parser.add_argument("--results", type=Path, metavar="DIR", help=text, required=required)
    add_out(parser, "folder to write to", required)
    parser.add_argument(
        "--set", type=assignment, action="append", default=[], metavar="NAME=VALUE", help=about_set
    )
    text = "accept covariates far outside the cohort's range"
    parser.add_argument("--extrapolate", action="store_true", help=text)


def _add_strict(parser: argparse._ActionsContainer) -> None:
    text = "exit with 1 where an image isn't what the run was made for"
    parser.add_argument("--strict", action="store_true", help=text)


def add_image(parser: argparse._ActionsContainer, required: bool = False) -> None:
    """Add the arguments of a verb that takes a new image through a finished run."""
    parser.add_argument("--image", type=Path, metavar="FILE", help="the image, NIfTI", required=required)
    _add_results(parser, "a covariate of the subject, such as age=72; once for each", required)
    _add_strict(parser)


def _add_fast(parser: argparse._ActionsContainer) -> None:
    text = "segment by the student alone, from the image, without registration; ensemble or student in "
    parser.add_argument("--fast", action="store_true", help=f"{text}fusion.methods")


def _add_segment(parser: argparse.ArgumentParser) -> None:
    add_image(parser, required=True)
    _add_fast(parser)
    add_device(parser, ANY_DEVICE)


def _add_images(parser: argparse.ArgumentParser) -> None:
    text = "an image, NIfTI, a folder of images, or a BIDS dataset"
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help=text)
    _add_results(parser, "a covariate of all subjects, such as age=72; once for each", required=True)
    add_device(parser, ANY_DEVICE)
    text = "table of covariates by participant_id; default: participants.tsv of a BIDS dataset"
    parser.add_argument("--covariates", type=Path, metavar="FILE", help=text)
    _add_fast(parser)
    _add_strict(parser)


def add_query(parsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `query`, which evaluates the template of a finished run."""
    text = "evaluate a finished run's template at some covariates: image, labels, volumes"
    parser = parsers.add_parser("query", help=text, description=text)
    _add_results(parser, "a covariate, such as age=72; once for each; others are at the mean", required=True)
    add_device(parser, ANY_DEVICE)


def add_modes(parsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `modes`, which evaluates the template of a finished run along its modes of variation."""
    text = "write a finished run's template at -2 to 2 standard deviations of its modes of variation"
    parser = parsers.add_parser("modes", help=text, description=text)
    folder = "output folder of the finished run"
    parser.add_argument("--results", type=Path, metavar="DIR", help=folder, required=True)
    add_out(parser, "folder to write to")
    parser.add_argument("--modes", type=int, default=3, metavar="N", help="number of modes")
    add_device(parser, ANY_DEVICE)


def register_image(args: argparse.Namespace) -> None:
    """Register a new image, and segment it where the verb is `segment`."""
    target = "atlasmith.inference.image:register_image"
    segment = args.verb == "segment"
    options = {"segment": segment, "extrapolate": args.extrapolate, "device": args.device or "auto"}
    if segment and args.fast:
        options["fast"] = True
    _check([call(target, args.results, args.image, dict(args.set), args.out, **options)], args.strict)


def predict_images(args: argparse.Namespace) -> None:
    """Segment many new images."""
    target = "atlasmith.inference.image:predict_all"
    options = {"table": args.covariates, "extrapolate": args.extrapolate, "device": args.device or "auto"}
    if args.fast:
        options["fast"] = True
    _check(call(target, args.results, args.images, dict(args.set), args.out, **options), args.strict)


def _check(predictions: Sequence[Prediction], strict: bool) -> None:
    """Raise `IncompleteError` where images failed, or if `strict`, where some need review."""
    failed = [f"sub-{found.scan}" for found in predictions if found.error is not None]
    review = [f"sub-{found.scan}" for found in predictions if found.reasons]
    parts = [f"{len(failed)} of {len(predictions)} images failed: {', '.join(failed)}"] if failed else []
    if review and strict:
        parts.append(f"{len(review)} of {len(predictions)} images need review: {', '.join(review)}")
    if parts:
        raise IncompleteError(f"{'; '.join(parts)}. See the messages above.")


def query_template(args: argparse.Namespace) -> None:
    """Evaluate the template of a finished run."""
    target = "atlasmith.inference.query:query_template"
    options = {"extrapolate": args.extrapolate, "device": args.device or "auto"}
    call(target, args.results, dict(args.set), args.out, **options)


def template_modes(args: argparse.Namespace) -> None:
    """Evaluate the template of a finished run along its modes of variation."""
    target = "atlasmith.inference.modes:template_modes"
    call(target, args.results, args.out, args.modes, args.device or "auto")


VERBS = [
    Verb(
        "predict",
        "segment raw images through a finished run, in one process, with a table of all volumes",
        _add_images,
        predict_images,
    ),
    Verb(
        "segment",
        "segment one raw image through a finished run: labels, confidence and volumes by every method",
        _add_segment,
        register_image,
    ),
]
