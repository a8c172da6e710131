"""The command line: one verb a stage. It parses, calls and turns errors into exit codes."""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from atlasmith import __version__
from atlasmith.config import Config, load_config
from atlasmith.core.errors import AtlasmithError, system_fault

# Each verb imports its stage when it is called: `atlasmith --help` and the affine stage need no torch.


def _cohort(config: Config) -> None:
    from atlasmith.cohort.stage import run

    run(config)


def _affine_reference(config: Config) -> None:
    from atlasmith.affine import build_reference

    build_reference(config)


def _affine(config: Config, subjects: list[str]) -> None:
    from atlasmith.affine import align_subject

    for subject in subjects:
        align_subject(config, subject)


def _populations(config: Config) -> None:
    from atlasmith.template.subpopulations import find_subpopulations

    find_subpopulations(config)


def _template(config: Config) -> None:
    from atlasmith.template import train

    train(config)


def _register(config: Config, subjects: list[str]) -> None:
    from atlasmith.registration import register_subjects

    register_subjects(config, subjects)


def _propagate(config: Config, subjects: list[str]) -> None:
    from atlasmith.propagation.stage import propagate

    for subject in subjects:
        propagate(config, subject)


def _template_labels(config: Config) -> None:
    from atlasmith.propagation.stage import label_template

    label_template(config)


def _fuse_train(config: Config) -> None:
    from atlasmith.fusion import train_fusers

    train_fusers(config)


def _fuse_quality(config: Config) -> None:
    from atlasmith.fusion import assess

    assess(config)


def _fuse(config: Config, subjects: list[str]) -> None:
    from atlasmith.fusion import fuse_subject

    for subject in subjects:
        fuse_subject(config, subject)


def _score(config: Config, subjects: list[str]) -> None:
    from atlasmith.evaluation import score_subject

    for subject in subjects:
        score_subject(config, subject)


def _score_summary(config: Config) -> None:
    from atlasmith.evaluation import summarize

    summarize(config)


def _report(config: Config) -> None:
    from atlasmith.report import write_report

    write_report(config)


def _demo_grade(config: Config) -> None:
    from atlasmith.demo.generator import grade

    grade(config)


def _register_image(args: argparse.Namespace) -> None:
    from atlasmith.inference.image import register_image

    register_image(args.results, args.image, dict(args.set), args.out, segment=args.verb == "segment")


ONCE: dict[str, tuple[Callable[[Config], None], str]] = {
    "cohort": (_cohort, "check the cohort; write its table, the grid and the resolved config"),
    "affine-reference": (_affine_reference, "build the unbiased groupwise affine reference"),
    "subpopulations": (_populations, "tell sub-subpopulations apart by their aligned images"),
    "template": (_template, "train template and registration network together"),
    "template-labels": (_template_labels, "give the template labels, from the registered atlases"),
    "fuse-train": (_fuse_train, "train what learned fusion needs, leaving out one atlas at a time"),
    "fuse-quality": (
        _fuse_quality,
        "judge atlases by each other, and learn what fused labels are worth",
    ),
    "score-summary": (_score_summary, "gather the subjects' scores, with bootstrap intervals"),
    "report": (_report, "write the HTML report"),
    "demo-grade": (_demo_grade, "grade a run of the demo cohort against its known truth"),
}
PER_SUBJECT: dict[str, tuple[Callable[[Config, list[str]], None], str]] = {
    "affine": (_affine, "align subjects to the affine reference; normalize their intensities"),
    "register": (_register, "register subjects to the template; write transforms both ways"),
    "propagate": (_propagate, "bring every atlas into the subjects' own spaces"),
    "fuse": (_fuse, "fuse the propagated labels by every method of the config"),
    "score": (_score, "score subjects: overlap, surfaces, deformation, similarity"),
}


def _subject_id(text: str) -> str:
    return text.removeprefix("sub-")


def _assignment(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise argparse.ArgumentTypeError(f"'{text}' isn't NAME=VALUE")
    return name, value


def _add_image(group: argparse._ArgumentGroup | argparse.ArgumentParser, required: bool = False) -> None:
    """What verbs over a finished run and someone new take."""
    group.add_argument("--image", type=Path, metavar="FILE", help="the image, NIfTI", required=required)
    _add_results(group, "a covariate of the person, such as age=72; once for each", required)


def _add_results(
    group: argparse._ArgumentGroup | argparse.ArgumentParser, about_set: str, required: bool = False
) -> None:
    """What verbs over a finished run take."""
    group.add_argument(
        "--results", type=Path, metavar="DIR", help="output folder of the run", required=required
    )
    group.add_argument("--out", type=Path, metavar="DIR", help="folder to write to", required=required)
    group.add_argument(
        "--set", type=_assignment, action="append", default=[], metavar="NAME=VALUE", help=about_set
    )


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="atlasmith",
        description="From a cohort of medical images to a template, registrations and segmentations. "
        "The Snakemake workflow calls these verbs in order; each runs one stage.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)

    for name, (_, text) in {**ONCE, **PER_SUBJECT}.items():
        verb = verbs.add_parser(name, help=text, description=text)
        alone = name not in ("register", "template")  # which have another way, below
        verb.add_argument("--config", type=Path, required=alone, metavar="FILE", help="the config, in YAML")
        if name in PER_SUBJECT:
            verb.add_argument(
                "--subjects",
                "--subject",
                type=_subject_id,
                nargs="+",
                required=alone,
                metavar="ID",
                help="participant ids, with or without 'sub-'",
            )
        if name == "template":
            ask = verb.add_argument_group("a finished template", "how it is at some covariates, not --config")
            ask.add_argument("query", nargs="?", choices=["query"], help="ask, do not train")
            _add_results(ask, "a covariate, such as age=72; once for each; others are at the mean")
        if name == "register":
            new = verb.add_argument_group(
                "someone new", "one raw image through a finished run, instead of --config and --subjects"
            )
            _add_image(new)

    text = "segment one raw image through a finished run: labels, confidence and volumes by every method"
    _add_image(verbs.add_parser("segment", help=text, description=text), required=True)
    text = "write the demo cohort: a real brain made into people with a known truth"
    demo = verbs.add_parser("demo", help=text, description=text)
    demo.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the BIDS cohort")
    demo.add_argument("--seed", type=int, default=0)
    text = "print the config's JSON schema"
    verbs.add_parser("schema", help=text, description=text)
    return parser


def _run(args: argparse.Namespace) -> None:
    if args.verb == "schema":
        print(json.dumps(Config.model_json_schema(by_alias=True), indent=2))
    elif args.verb == "demo":
        from atlasmith.demo.generator import make_demo

        make_demo(args.out, seed=args.seed)
    elif args.verb == "segment" or (
        args.verb == "register" and args.results and args.image and args.out and not args.config
    ):
        _register_image(args)
    elif args.verb == "template" and args.query and args.results and args.out and not args.config:
        from atlasmith.inference.query import query_template

        query_template(args.results, dict(args.set), args.out)
    elif args.verb == "template" and (args.query or args.results or not args.config):
        raise AtlasmithError("give --config, or query with --results and --out.")
    elif args.verb == "register" and not (args.config and args.subjects and not args.results):
        raise AtlasmithError("give --config and --subjects, or --results, --image and --out.")
    elif args.verb in ONCE:
        ONCE[args.verb][0](load_config(args.config))
    else:
        PER_SUBJECT[args.verb][0](load_config(args.config), args.subjects)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb. Returns 0, or 2 after printing an error that the user can mend."""
    args = build_parser().parse_args(argv)
    start = time.monotonic()
    try:
        _run(args)
    except AtlasmithError as error:
        print(f"atlasmith {args.verb}: {error}", file=sys.stderr)
        return 2
    except Exception as error:
        fault = system_fault(error)
        if fault is None:
            raise
        print(f"atlasmith {args.verb}: {fault} What is finished stays; start again.", file=sys.stderr)
        return 2
    if args.verb in {**ONCE, **PER_SUBJECT}:
        print(f"atlasmith {args.verb}: {time.monotonic() - start:.1f} s, {_memory():.2f} GiB at most")
    return 0


def _memory() -> float:
    """The largest that this process was so far, GiB; with what it took of a GPU."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)
    torch = sys.modules.get("torch")
    return peak + (torch.cuda.max_memory_allocated() / 2**30 if torch and torch.cuda.is_available() else 0)
