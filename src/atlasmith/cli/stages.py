"""Verbs over a config: one per stage, for the whole cohort or for some subjects."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from atlasmith.cli import inference
from atlasmith.cli.verbs import Verb, add_device, call
from atlasmith.cohort import checked_participants
from atlasmith.config import Config, load_config
from atlasmith.core.errors import AtlasmithError, did_you_mean
from atlasmith.io.tables import matching_scans, read_cohort
from atlasmith.workflow.failures import Attempts, row_text

OF_CONFIG = "as the config says"


def _add_config(parser: argparse.ArgumentParser, required: bool = True) -> None:
    parser.add_argument("--config", type=Path, required=required, metavar="FILE", help="the config, in YAML")


def _add_subjects(parser: argparse.ArgumentParser, required: bool = True) -> None:
    _add_config(parser, required)
    parser.add_argument(
        "--subjects",
        "--subject",
        nargs="+",
        required=required,
        metavar="ID",
        help="ids of scans, such as sub-01 or sub-01_ses-02; that of a participant stands for all its scans",
    )
    parser.add_argument(
        "--record-failures",
        action="store_true",
        help="go on with the other subjects when one fails, and record it in `failures` of the output",
    )


def _config(args: argparse.Namespace) -> Config:
    """The config of a stage, with the device that `--device` asks for."""
    config, device = load_config(args.config), getattr(args, "device", None)
    return config.model_copy(update={"device": device}) if device else config


def _scans(config: Config, names: Sequence[str]) -> list[str]:
    """The scans of the checked cohort that the names of `--subjects` stand for."""
    known = [subject.id for subject in read_cohort(config.layout.cohort)]
    found = {name: matching_scans(known, name) for name in names}
    for name in names:
        if not found[name]:
            ids = [f"sub-{scan}" for scan in known]
            raise AtlasmithError(f"--subjects: '{name}' is no scan of the cohort. {did_you_mean(name, ids)}")
    return list(dict.fromkeys(scan for name in names for scan in found[name]))


@contextmanager
def _attempts(config: Config, args: argparse.Namespace) -> Iterator[Callable[[str], Any]]:
    """Give what wraps the work on each subject, and raise its failures at the end."""
    if not args.record_failures:
        yield nullcontext
        return
    subjects = {subject.id: subject for subject in read_cohort(config.layout.cohort)}
    rows = {name: row_text(row) for name, row in checked_participants(config).items()}
    attempts = Attempts(config, args.verb, subjects, rows)
    yield attempts
    attempts.raise_failures()


def cohort_verb(name: str, target: str, text: str, on_device: bool = False) -> Verb:
    """Make a verb that calls a stage once.

    Args:
        name: The verb.
        target: `module:function`; the function takes the config.
        text: What it does, for `--help`.
        on_device: Whether it computes on the config's device.
    """

    def add_arguments(parser: argparse.ArgumentParser) -> None:
        _add_config(parser)
        if on_device:
            add_device(parser, OF_CONFIG)

    def run(args: argparse.Namespace) -> None:
        call(target, _config(args))

    return Verb(name, text, add_arguments, run)


def subject_verb(name: str, target: str, text: str, on_device: bool = False) -> Verb:
    """Make a verb that calls a stage for each of some subjects.

    Args:
        name: The verb.
        target: `module:function`; the function takes the config and a subject's id.
        text: What it does, for `--help`.
        on_device: Whether it computes on the config's device.
    """

    def add_arguments(parser: argparse.ArgumentParser) -> None:
        _add_subjects(parser)
        if on_device:
            add_device(parser, OF_CONFIG)

    def run(args: argparse.Namespace) -> None:
        config = _config(args)
        with _attempts(config, args) as attempt:
            for subject in _scans(config, args.subjects):
                with attempt(subject):
                    call(target, config, subject)

    return Verb(name, text, add_arguments, run)


def _add_template(parser: argparse.ArgumentParser) -> None:
    _add_config(parser, required=False)
    add_device(parser, OF_CONFIG)
    parsers = parser.add_subparsers(dest="of_run", metavar="{query,modes}")
    inference.add_query(parsers)
    inference.add_modes(parsers)


def _template(args: argparse.Namespace) -> None:
    if args.of_run and args.results and args.out and not args.config:
        (inference.query_template if args.of_run == "query" else inference.template_modes)(args)
    elif args.of_run or not args.config:
        raise AtlasmithError("give --config, or query or modes with --results and --out.")
    else:
        call("atlasmith.template:train", _config(args))


def _add_register(parser: argparse.ArgumentParser) -> None:
    _add_subjects(parser, required=False)
    add_device(parser, f"{OF_CONFIG}; for a new image {inference.ANY_DEVICE}")
    text = "one raw image through a finished run, instead of --config and --subjects"
    inference.add_image(parser.add_argument_group("a new image", text))


def _register(args: argparse.Namespace) -> None:
    if args.results and args.image and args.out and not args.config:
        inference.register_image(args)
    elif not (args.config and args.subjects and not args.results):
        raise AtlasmithError("give --config and --subjects, or --results, --image and --out.")
    else:
        config = _config(args)
        with _attempts(config, args) as attempt:
            call("atlasmith.registration:register_subjects", config, _scans(config, args.subjects), attempt)


VERBS = [
    cohort_verb(
        "cohort",
        "atlasmith.cohort:write_checked_cohort",
        "check the cohort; write its table, the grid and the resolved config",
    ),
    subject_verb(
        "preprocess",
        "atlasmith.preprocess:preprocess_subject",
        "correct bias fields and normalize intensities",
    ),
    cohort_verb(
        "affine-reference",
        "atlasmith.affine:build_reference",
        "build the unbiased groupwise affine reference",
    ),
    subject_verb("affine", "atlasmith.affine:align_subject", "align subjects to the affine reference"),
    cohort_verb(
        "subpopulations",
        "atlasmith.template.subpopulations:find_subpopulations",
        "find subpopulations among the aligned images",
    ),
    Verb(
        "template",
        "train template and registration network together; or evaluate a finished template",
        _add_template,
        _template,
    ),
    Verb(
        "register", "register subjects to the template; write transforms both ways", _add_register, _register
    ),
    cohort_verb(
        "template-labels",
        "atlasmith.propagation:label_template",
        "label the template from the registered atlases",
        on_device=True,
    ),
    subject_verb(
        "propagate",
        "atlasmith.propagation:propagate_subject",
        "resample every atlas into the subjects' native spaces",
        on_device=True,
    ),
    cohort_verb(
        "fuse-train",
        "atlasmith.fusion:train_fusers",
        "train the networks of fusion methods on the atlases",
        on_device=True,
    ),
    subject_verb(
        "fuse",
        "atlasmith.fusion:fuse_subject",
        "fuse the propagated labels by every method of the config",
        on_device=True,
    ),
    cohort_verb(
        "fuse-quality",
        "atlasmith.fusion:assess_quality",
        "compare the atlases with one another; calibrate the quality of segmentations",
    ),
    subject_verb(
        "score",
        "atlasmith.evaluation:score_subject",
        "score subjects: overlap, surfaces, deformation, similarity",
    ),
    cohort_verb(
        "score-summary",
        "atlasmith.evaluation:summarize",
        "gather the subjects' scores, with bootstrap intervals",
    ),
    cohort_verb("report", "atlasmith.report:write_report", "write the HTML report"),
]
