"""Verbs of the demo cohorts."""

from __future__ import annotations

import argparse

from atlasmith.cli.stages import cohort_verb
from atlasmith.cli.verbs import Verb, add_out, call


def _add_demo(parser: argparse.ArgumentParser) -> None:
    add_out(parser, "folder of the BIDS cohort")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random deformations")
    parser.add_argument(
        "--body",
        default="brain",
        metavar="NAME",
        help="what is simulated: `brain`; `head`, that brain unstripped; `abdomen`, in CT; or `mouse`, the "
        "brain at the scale of a mouse's",
    )


def _demo(args: argparse.Namespace) -> None:
    call("atlasmith.demo:make_demo", args.out, seed=args.seed, body=args.body)


VERBS = [
    Verb(
        "demo", "write a demo cohort: subjects simulated from a real brain or a made body", _add_demo, _demo
    ),
    cohort_verb(
        "demo-grade", "atlasmith.demo:grade", "compare a run of a demo cohort with the simulated truth"
    ),
]
