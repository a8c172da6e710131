"""Verbs for a BIDS folder: a config for it, and the whole run."""

from __future__ import annotations

import argparse
from pathlib import Path

from atlasmith.cli.verbs import Verb, assignment, call


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.usage = (
        "atlasmith run BIDS OUT [--config FILE] [--cores N | --profile P] [--set KEY=VALUE] [--dry-run] "
        "[--retry-failed] [SNAKEMAKE ARGUMENTS ...]"
    )
    parser.epilog = (
        "Further arguments are Snakemake's, such as --forcerun register or --resources gpu=1. Exit codes: 0; "
        "1 if some subjects failed and all else is done; 2 if the input is refused or a stage failed; 130 if "
        "interrupted."
    )
    parser.add_argument("bids", type=Path, metavar="BIDS", help="BIDS folder of the cohort")
    parser.add_argument(
        "out", type=Path, metavar="OUT", help="folder of the results; a run that is there goes on"
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="the config, in YAML; without it, one is made from the data",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("-c", "--cores", metavar="N", help="number of cores, or `all` (the default)")
    where.add_argument(
        "--profile", metavar="P", help="Snakemake profile of a cluster: a folder, or `slurm` for the one here"
    )
    parser.add_argument(
        "--set",
        type=assignment,
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a key of the config and its value, such as template.spacing=2; once for each",
    )
    parser.add_argument(
        "-n", "--dry-run", action="store_true", help="show the plan and the jobs, and run nothing"
    )
    parser.add_argument(
        "--retry-failed", action="store_true", help="try subjects again that failed in an earlier run"
    )


def _run(args: argparse.Namespace) -> int:
    from atlasmith.launch.request import Request

    request = Request(
        args.bids,
        args.out,
        args.config,
        args.set,
        args.cores,
        args.profile,
        args.dry_run,
        args.retry_failed,
        args.arguments,
    )
    return int(call("atlasmith.launch.run:run_cohort", request))


def _add_init(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bids", type=Path, metavar="BIDS", help="BIDS folder of the cohort")
    text = "the file to write, which must not exist (%(default)s)"
    parser.add_argument("--out", type=Path, default=Path("my.yaml"), metavar="FILE", help=text)


def _init(args: argparse.Namespace) -> None:
    call("atlasmith.launch.init:write_config", args.bids, args.out)


VERBS = [
    Verb(
        "run",
        "run the whole workflow on a BIDS folder: template, registrations, segmentations, report",
        _add_run,
        _run,
        passes_on=True,
    ),
    Verb("init", "write a commented config from what lies in a BIDS folder", _add_init, _init),
]
