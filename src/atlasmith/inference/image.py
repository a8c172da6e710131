"""Someone new: one raw image through a finished run, to transforms, warped image and segmentations."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from atlasmith.affine import align_subject
from atlasmith.cohort import check_image
from atlasmith.config import load_config
from atlasmith.core.errors import AtlasmithError, InputError
from atlasmith.fusion import fuse_subject
from atlasmith.inference.covariates import Values, check_covariates, warn_extrapolation
from atlasmith.io.files import atomic_write
from atlasmith.io.layout import Layout
from atlasmith.io.tables import SUBPOPULATION, Subject, read_cohort, write_cohort
from atlasmith.preprocess import preprocess_subject
from atlasmith.propagation import propagate_subject, propagate_from_template
from atlasmith.registration import register_subjects
from atlasmith.template.subpopulations import nearest_subpopulation


def register_image(
    results: Path, image: Path, covariates: Mapping[str, str], out: Path, segment: bool = False
) -> None:
    """Take one raw image, of someone who wasn't in the cohort, through the stages of a finished run.

    Writes to `out` what the run has of each of its targets, under the same names: transforms both ways, the
    warped image, the log-Jacobian and the template's labels; with `segment` also the labels, confidence and
    volumes by each fusion method.
    `covariates` are those of the template, as text; one that isn't given counts as the cohort's
    mean, but for the subpopulation, which is that of the closest template. Nothing
    in `results` changes. Raises `InputError` with all that is wrong with the image and the covariates, and
    `AtlasmithError` when the run isn't finished or `out` has this person already.
    """
    config = load_config(results / "config.yaml")
    run = Layout(results, config.template.name, config.cohort.suffix)
    for path in (run.template_weights, run.template_labels):
        if not path.exists():
            raise AtlasmithError(f"{path} is missing. Finish the workflow in {results} first.")
    cohort = read_cohort(run.cohort)
    name = _name(image)
    there = out / f"sub-{name}"
    if there.exists():
        raise AtlasmithError(f"{there} exists already. Choose another folder, or remove it.")
    known = list(dict.fromkeys([*config.cohort.covariates, *config.template.conditions]))
    values = _checked(image, covariates, known, cohort)
    for covariate in config.template.condition_on:
        warn_extrapolation("segment" if segment else "register", covariate, values.get(covariate), cohort)
    if name in {subject.id for subject in cohort}:
        name += "new"

    atlases = [subject for subject in cohort if subject.role == "atlas"]
    with TemporaryDirectory() as folder:
        # The stages see the run with a cohort of its atlases and this person.
        view = Path(folder)
        parts = ["model", f"tpl-{config.template.name}", "grid.json", "labels.tsv"]
        for part in [*parts, *(f"sub-{atlas.id}" for atlas in atlases)]:
            (view / part).symlink_to((results / part).absolute())
        config = config.model_copy(update={"output": view})
        person = Subject(name, "target", image, None, values, in_template=False)
        write_cohort(config.layout.cohort, [*atlases, person], known)
        preprocess_subject(config, name)
        align_subject(config, name)
        if config.template.subpopulations > 1 and values[SUBPOPULATION] is None:
            person.covariates[SUBPOPULATION] = nearest_subpopulation(config, person)
            print(f"subpopulation {person.covariates[SUBPOPULATION]}, whose template is closest; see --set")
            write_cohort(config.layout.cohort, [*atlases, person], known)
        register_subjects(config, [name])
        propagate_from_template(config, name)
        made = config.layout.forward(name).parent
        if segment:
            propagate_subject(config, name)
            fuse_subject(config, name)
            config.layout.propagated_images(name).unlink()
        for path in sorted(made.iterdir()):
            with atomic_write(
                there / "anat" / path.name.replace(f"sub-{name}_", f"{there.name}_")
            ) as partial:
                shutil.copyfile(path, partial)
    print(f"{there / 'anat'}", flush=True)


def _name(image: Path) -> str:
    """What stands behind `sub-` in the file's name, or the name itself, in letters and digits."""
    stem = image.name.removesuffix(".gz").removesuffix(image.suffix).removesuffix(".nii")
    match = re.match(r"sub-([A-Za-z0-9]+)", stem)
    return match[1] if match else re.sub(r"[^A-Za-z0-9]", "", stem) or "new"


def _checked(
    image: Path, covariates: Mapping[str, str], known: Sequence[str], cohort: Sequence[Subject]
) -> Values:
    values, problems = check_covariates(covariates, known, cohort)
    try:
        check_image(image)
    except InputError as error:
        problems = [*error.problems, *problems]
    if problems:
        raise InputError(problems)
    return values
