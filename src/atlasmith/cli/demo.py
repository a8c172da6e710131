"""Verbs of the demo cohort."""

from __future__ import annotations

import argparse

from atlasmith.cli.stages import cohort_verb
from atlasmith.cli.verbs import Verb, add_out, call


def _add_demo(parser: argparse.ArgumentParser) -> None:
    add_out(parser, "folder of the BIDS cohort")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random deformations")


def _demo(args: argparse.Namespace) -> None:
    call("atlasmith.demo:make_demo", args.out, seed=args.seed)


VERBS = [
    Verb("demo", "write the demo cohort: subjects simulated from a real brain", _add_demo, _demo),
    cohort_verb(
        "demo-grade", "atlasmith.demo:grade", "compare a run of the demo cohort with the simulated truth"
    ),
]
