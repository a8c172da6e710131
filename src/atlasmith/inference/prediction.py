"""One new scan through a finished run: to transforms, a warped image and segmentations."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from atlasmith.affine import align_subject
from atlasmith.cohort import check_image
from atlasmith.config import Config
from atlasmith.core.errors import AtlasmithError, InputError
from atlasmith.fusion.stage import fuse_subject, segment_subject
from atlasmith.fusion.suitability import review_reasons
from atlasmith.inference.covariates import (
    Values,
    check_covariates,
    extrapolation_problems,
    warn_extrapolation,
)
from atlasmith.inference.finished_run import FinishedRun
from atlasmith.inference.scans import NewScan
from atlasmith.io.files import read_json
from atlasmith.io.layout import Layout
from atlasmith.io.tables import SUBPOPULATION, Subject, participant_of, write_cohort
from atlasmith.preprocess import preprocess_subject
from atlasmith.propagation import propagate_from_template, propagate_subject
from atlasmith.registration.stage import register_subject
from atlasmith.template.subpopulations import nearest_subpopulation


@dataclass
class Prediction:
    """What a finished run gave of one scan.

    Attributes:
        scan: Its id without `sub-`.
        files: What was written; empty where the scan failed.
        predicted_dice: Of the last fusion method, mean over labels; None where none is predicted.
        reasons: Why the results need review; none for a scan of the run's kind.
        seconds: That it took; 0 for one that was finished before.
        error: Why there is no result; None where there is one.
    """

    scan: str
    files: list[Path] = field(default_factory=list)
    predicted_dice: float | None = None
    reasons: list[str] = field(default_factory=list)
    seconds: float = 0.0
    error: Exception | None = None


def check_scan(run: FinishedRun, scan: NewScan, extrapolate: bool) -> Values:
    """Check the images and covariates of a scan.

    Returns:
        A value for each of the run's covariates, None where it isn't given.

    Raises:
        InputError: With all problems.
    """
    values, problems = check_covariates(scan.covariates, run.covariates, run.cohort)
    problems += scan.problems
    if not extrapolate:
        problems += extrapolation_problems(values, run.config.template.condition_on, run.cohort)
    for channel, image in scan.images.items():
        try:
            check_image(image, run.config.preprocess.window_of(channel))
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
    return values


def is_finished(run: FinishedRun, scan: NewScan, out: Path, segment: bool, fast: bool = False) -> bool:
    """Tell whether a folder has the results of a scan already, see `predict_scan`.

    Raises:
        AtlasmithError: When it has some of them alone.
    """
    layout = replace(run.config.layout, output=out)
    folder = layout.subject_folder(scan.id)
    if not folder.exists():
        return False
    last = layout.segmentation_sidecar(scan.id, run.last_method(fast)) if segment else folder
    if not last.exists():
        raise AtlasmithError(
            f"{folder} exists already, without all segmentations. Choose another folder, or remove it."
        )
    return True


def predict_scan(
    run: FinishedRun,
    scan: NewScan,
    out: Path,
    segment: bool,
    extrapolate: bool = False,
    fast: bool = False,
) -> Prediction:
    """Take a scan through the stages of a run: its results are those that the workflow has of a target.

    Args:
        run: The finished run; nothing in its folder changes.
        scan: The scan.
        out: Folder to write to; either all files of a scan are written or none.
        segment: Also segment the scan.
        extrapolate: Accept covariates far outside the cohort's range.
        fast: Segment by the method that does without atlases, and don't register.

    Raises:
        InputError: With all problems of the images and covariates.
        AtlasmithError: When a stage fails.
    """
    start = time.monotonic()
    values = check_scan(run, scan, extrapolate)
    for covariate in run.config.template.condition_on:
        warn_extrapolation(f"sub-{scan.id}", covariate, values.get(covariate), run.cohort)
    with TemporaryDirectory() as folder:
        config, subject = _work_folder(run, scan, values, Path(folder), [] if fast else run.atlases)
        layout = config.layout
        preprocess_subject(config, subject.id)
        if fast:
            with run.turn:
                segment_subject(config, subject.id, run.predictors)
            reasons = []
        else:
            reasons = _register_and_fuse(run, scan, config, subject, segment)
        files = _publish(layout, subject.id, scan.id, out)
    found = read_prediction(run, scan, out, fast) if segment else Prediction(scan.id, reasons=reasons)
    return replace(found, files=files, seconds=time.monotonic() - start)


def _register_and_fuse(
    run: FinishedRun, scan: NewScan, config: Config, subject: Subject, segment: bool
) -> list[str]:
    """Take a preprocessed scan through all other stages; why it needs review, where it isn't segmented."""
    layout = config.layout
    align_subject(config, subject.id)
    if config.template.subpopulations > 1 and subject.covariates.get(SUBPOPULATION) is None:
        nearest = nearest_subpopulation(config, subject)
        subject.covariates[SUBPOPULATION] = nearest
        print(f"sub-{scan.id}: subpopulation {nearest}, whose template is the nearest; see --set")
        write_cohort(layout.cohort, [*run.atlases, subject], run.covariates)
    with run.turn:
        register_subject(config, subject, run.registration)
        propagate_from_template(config, subject.id)
        if not segment:
            return review_reasons(layout, subject, run.quality, run.registration.device)
        stacks = propagate_subject(config, subject.id, write_images=False)
        fuse_subject(config, subject.id, run.predictors, stacks)
    return []


def read_prediction(run: FinishedRun, scan: NewScan, out: Path, fast: bool = False) -> Prediction:
    """Read the quality of a scan's segmentations, of whose methods the last one counts."""
    layout = replace(run.config.layout, output=out)
    files = sorted(layout.subject_folder(scan.id).iterdir())
    sidecar = layout.segmentation_sidecar(scan.id, run.last_method(fast))
    quality = read_json(sidecar) if sidecar.exists() else {}
    return Prediction(scan.id, files, quality.get("PredictedDice"), quality.get("ReviewReasons", []))


def _work_folder(
    run: FinishedRun, scan: NewScan, values: Values, folder: Path, atlases: Sequence[Subject]
) -> tuple[Config, Subject]:
    """Link what the stages read of a run into a folder, with a cohort of some atlases and the scan."""
    source = run.config.layout
    target = replace(source, output=folder)
    for path in (source.grid, source.labels, source.template_weights.parent, source.template_image.parent):
        (folder / path.relative_to(source.output)).symlink_to(path.absolute())
    name, participants = scan.id, {participant_of(member.id) for member in run.cohort}
    if name in {member.id for member in run.cohort}:  # its networks are then those for a new scan
        participant, *session = name.split("_", 1)
        while participant in participants:
            participant += "new"
        name = "_".join([participant, *session])
    for atlas in atlases:
        link = target.subject_folder(atlas.id)
        if participant_of(atlas.id) != participant_of(name):
            link = folder / link.relative_to(folder).parts[0]  # all sessions: folders take milliseconds each
        if not (link.exists() or link.is_symlink()):
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to((source.output / link.relative_to(folder)).absolute())
    several = len(run.config.cohort.channels) > 1
    subject = Subject(
        name,
        "target",
        next(iter(scan.images.values())),
        covariates=dict(values),
        in_template=False,
        channels=scan.images if several else {},
    )
    write_cohort(target.cohort, [*atlases, subject], run.covariates)
    return run.config.model_copy(update={"output": folder}), subject


def _publish(layout: Layout, name: str, scan: str, out: Path) -> list[Path]:
    """Move a scan's files, which are named by `name`, to `out`: all of them, or none."""
    target = replace(layout, output=out).subject_folder(scan)
    temporary, own = (f"sub-{participant_of(each)}" for each in (name, scan))
    partial = target.with_name(f".partial-{os.getpid()}-{target.name}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        for path in sorted(layout.subject_folder(name).iterdir()):
            copied = partial / path.name.replace(f"sub-{name}_", f"sub-{scan}_")
            if path.suffix == ".json" and name != scan:
                copied.write_text(path.read_text().replace(temporary, own))
            else:
                shutil.copyfile(path, copied)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if not target.exists():
            with suppress(OSError):  # another session of the participant is there
                partial.parent.rmdir()
    return sorted(target.iterdir())
