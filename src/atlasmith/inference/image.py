"""Take one new image through a finished run: to transforms, a warped image and segmentations."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from atlasmith.affine import align_subject
from atlasmith.cohort import check_image
from atlasmith.config import Config
from atlasmith.core.errors import AtlasmithError, InputError
from atlasmith.fusion import fuse_subject
from atlasmith.inference.covariates import Values, check_covariates, warn_extrapolation
from atlasmith.inference.finished_run import load_finished_run
from atlasmith.io.files import atomic_write
from atlasmith.io.tables import SUBPOPULATION, Subject, read_cohort, write_cohort
from atlasmith.preprocess import preprocess_subject
from atlasmith.propagation import propagate_from_template, propagate_subject
from atlasmith.registration import register_subjects
from atlasmith.template.subpopulations import nearest_subpopulation


def predict(
    results: str | Path,
    image: str | Path,
    covariates: Mapping[str, float | str] | None = None,
    out: str | Path = "prediction",
) -> list[Path]:
    """Segment one raw image by a finished run.

    Args:
        results: Output folder of the run.
        image: The image, NIfTI.
        covariates: The subject's covariates, by name; one that isn't given counts as the cohort's mean.
        out: Folder to write to.

    Returns:
        The files written: transforms, warped image, log-Jacobian, and labels, confidence and volumes by each
        fusion method.

    Raises:
        InputError: With all problems of the image and the covariates.
        AtlasmithError: When the run isn't finished, or `out` has this subject already.

    Example:
        >>> paths = predict(results, scan, {"age": 40}, folder)  # doctest: +ELLIPSIS
        register: sub-scan, 1 of 1
        ...sub-scan/anat
        >>> [path.name for path in paths if path.name.endswith("majority_dseg.nii.gz")]
        ['sub-scan_space-T1w_desc-majority_dseg.nii.gz']
    """
    texts = {name: str(value) for name, value in (covariates or {}).items()}
    return register_image(Path(results), Path(image), texts, Path(out), segment=True)


def register_image(
    results: Path, image: Path, covariates: Mapping[str, str], out: Path, segment: bool = False
) -> list[Path]:
    """Take one raw image of a new subject through the stages of a finished run.

    Writes what the run has of each of its targets, under the same names: transforms in both directions, the
    warped image, the log-Jacobian and the template's labels; with `segment` also labels, confidence and
    volumes by each fusion method. Nothing in `results` changes.

    Args:
        results: Output folder of the run.
        image: The image, NIfTI.
        covariates: The subject's covariates, as text, by name. One that isn't given counts as the cohort's
            mean; a subpopulation that isn't given is that of the nearest template.
        out: Folder to write to.
        segment: Also segment the image.

    Returns:
        The files written.

    Raises:
        InputError: With all problems of the image and the covariates.
        AtlasmithError: When the run isn't finished, or `out` has this subject already.
    """
    config = load_finished_run(results, "template_weights", "template_labels")
    cohort = read_cohort(config.layout.cohort)
    name = _subject_id(image)
    folder = out / f"sub-{name}"
    if folder.exists():
        raise AtlasmithError(f"{folder} exists already. Choose another folder, or remove it.")
    known = list(dict.fromkeys([*config.cohort.covariates, *config.template.conditions]))
    values = _check(config, image, covariates, known, cohort)
    for covariate in config.template.condition_on:
        warn_extrapolation("segment" if segment else "register", covariate, values.get(covariate), cohort)
    if name in {subject.id for subject in cohort}:
        name += "new"
    atlases = [subject for subject in cohort if subject.role == "atlas"]
    subject = Subject(name, "target", image, None, values, in_template=False)
    with TemporaryDirectory() as workspace:
        config = _link_run(config, atlases, Path(workspace))
        write_cohort(config.layout.cohort, [*atlases, subject], known)
        preprocess_subject(config, name)
        align_subject(config, name)
        if config.template.subpopulations > 1 and values[SUBPOPULATION] is None:
            values[SUBPOPULATION] = nearest_subpopulation(config, subject)
            print(f"subpopulation {values[SUBPOPULATION]}: its template is the nearest; see --set")
            write_cohort(config.layout.cohort, [*atlases, subject], known)
        register_subjects(config, [name])
        propagate_from_template(config, name)
        if segment:
            propagate_subject(config, name)
            fuse_subject(config, name)
            config.layout.propagated_images(name).unlink()
        written = []
        for path in sorted(config.layout.forward(name).parent.iterdir()):
            written.append(folder / "anat" / path.name.replace(f"sub-{name}_", f"{folder.name}_"))
            with atomic_write(written[-1]) as partial:
                shutil.copyfile(path, partial)
    print(f"{folder / 'anat'}", flush=True)
    return written


def _link_run(config: Config, atlases: Sequence[Subject], workspace: Path) -> Config:
    """Link what the stages read of a run into a folder, and return the config with that output."""
    parts = ["model", f"tpl-{config.template.name}", "grid.json", "labels.tsv"]
    for part in [*parts, *(f"sub-{atlas.id}" for atlas in atlases)]:
        (workspace / part).symlink_to((config.output / part).absolute())
    preprocess = config.preprocess
    if preprocess.masks is not None:
        print("the images of this run were masked: the new image must be masked too", flush=True)
        preprocess = preprocess.model_copy(update={"masks": None})
    return config.model_copy(update={"output": workspace, "preprocess": preprocess})


def _subject_id(image: Path) -> str:
    """Return what follows `sub-` in a file's name, or the name itself, in letters and digits."""
    stem = image.name.removesuffix(".gz").removesuffix(image.suffix).removesuffix(".nii")
    match = re.match(r"sub-([A-Za-z0-9]+)", stem)
    return match[1] if match else re.sub(r"[^A-Za-z0-9]", "", stem) or "new"


def _check(
    config: Config,
    image: Path,
    covariates: Mapping[str, str],
    known: Sequence[str],
    cohort: Sequence[Subject],
) -> Values:
    """Check covariates and image; return the covariates' values or raise `InputError`."""
    values, problems = check_covariates(covariates, known, cohort)
    try:
        check_image(image, config.preprocess.window)
    except InputError as error:
        problems = [*error.problems, *problems]
    if problems:
        raise InputError(problems)
    return values
